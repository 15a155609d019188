//! Who did not answer a moment ago is not asked again for a while.

use super::outside::TimeSource;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a cluster or front-end that did not answer counts as silent within a run.
const SILENCE: Duration = Duration::from_secs(15);

/// Who has answered a moment ago is not silent, whatever has no answer: one image of a cluster may have none.
const ALIVE: Duration = Duration::from_secs(2);

/// Silence, as last noted. All clones tell of the same.
#[derive(Clone)]
pub(crate) struct Silence {
    time: Rc<dyn TimeSource>,
    noted: Rc<RefCell<Option<(Instant, String)>>>,
    answered: Rc<Cell<Option<Instant>>>,
}

impl Silence {
    pub(super) fn none(time: Rc<dyn TimeSource>) -> Self {
        Self { time, noted: Rc::default(), answered: Rc::default() }
    }

    pub(crate) fn note(&self, why: String) {
        let is_alive = self.answered.get().is_some_and(|at| self.time.since(at) < ALIVE);
        if !is_alive {
            *self.noted.borrow_mut() = Some((self.time.now(), why));
        }
    }

    pub(crate) fn note_answer(&self) {
        self.answered.set(Some(self.time.now()));
    }

    /// Why nobody is asked, if that was a moment ago. One deadline is waited for then, not one per image and look.
    pub(crate) fn lasts(&self) -> Option<String> {
        let noted = self.noted.borrow();
        let (since, why) = noted.as_ref()?;
        (self.time.since(*since) < SILENCE).then(|| why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::outside::RealTime;

    #[tokio::test(start_paused = true)]
    async fn who_has_answered_a_moment_ago_is_not_silent() {
        let silence = Silence::none(Rc::new(RealTime));
        silence.note_answer();
        silence.note("one image".into());
        assert_eq!(silence.lasts(), None);
        tokio::time::advance(ALIVE).await;
        silence.note("no answer".into());
        assert_eq!(silence.lasts().as_deref(), Some("no answer"));
        tokio::time::advance(SILENCE).await;
        assert_eq!(silence.lasts(), None);
    }
}
