//! Pure judgement of what was seen. Which look, lock or wait comes next is the matter of [`crate::run`].

pub(crate) mod boot;
pub(crate) mod force;
pub(crate) mod give_up;
pub(crate) mod removal;
pub(crate) mod running;
pub(crate) mod take_up;
pub(crate) mod tidy;
