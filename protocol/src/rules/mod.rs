//! Pure judgement of what was seen: no order, no time.

pub(crate) mod boot;
pub(crate) mod force;
pub(crate) mod give_up;
pub(crate) mod removal;
pub(crate) mod running;
pub(crate) mod take_up;
pub(crate) mod tidy;
