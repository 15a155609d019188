//! Time as the rules see it.

use super::outside::TimeSource;
use onemirror_protocol::{Lateness, Patience};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// How long to wait at least between two looks while something is on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The longest pause between two looks.
const LOOK_AGAIN_AT_LAST: Duration = Duration::from_secs(4);
/// How long at least between two looks where something cheaper is asked meanwhile.
const LOOK_BETWEEN_GLANCES: Duration = Duration::from_secs(2);
/// How long what moves may be expected to arrive by itself.
pub(crate) const FRESH: Duration = Duration::from_secs(20);

/// How long a run has taken, and how long nothing has come of it.
pub(crate) struct Clock {
    time: Rc<dyn TimeSource>,
    started: Instant,
    progressed: Instant,
    looked: Instant,
    limit: Duration,
    waned: bool,
}

impl Clock {
    pub(crate) fn start(limit: Duration, time: Rc<dyn TimeSource>) -> Self {
        let now = time.now();
        Self { time, started: now, progressed: now, looked: now, limit, waned: false }
    }

    /// When the run began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Something was changed: what follows from it needs its time, also when the limit is near.
    pub(crate) fn progress(&mut self) {
        self.progressed = self.time.now();
    }

    /// For a judgement. None of the three is left out, however long a busy machine's looks take: some steps are taken
    /// only while patience wanes, and without them no later try would get further.
    pub(crate) fn patience(&mut self) -> Patience {
        match self.by_time() {
            Patience::Exhausted if !self.waned => {
                self.waned = true;
                Patience::Waning
            }
            patience => {
                self.waned |= patience == Patience::Waning;
                patience
            }
        }
    }

    fn by_time(&self) -> Patience {
        let idle = self.time.since(self.progressed);
        let fresh = FRESH.min(self.limit / 2);
        if self.time.since(self.started) >= self.limit && (idle >= fresh || self.is_long_over()) {
            Patience::Exhausted
        } else if idle >= fresh {
            Patience::Waning
        } else {
            Patience::Fresh
        }
    }

    fn is_long_over(&self) -> bool {
        self.time.since(self.started) >= self.limit + FRESH * 2
    }

    /// How the run stands to its deadline.
    pub(crate) fn lateness(&self) -> Lateness {
        match self.by_time() {
            _ if self.is_long_over() => Lateness::LongOver,
            Patience::Exhausted => Lateness::Over,
            Patience::Fresh | Patience::Waning => Lateness::InTime,
        }
    }

    /// Waits before the next look until something has arrived, which is asked for often; and not for ever, since what it is
    /// that is asked for may not be what comes. Tells whether it has; where that cannot be told, a look has to.
    pub(crate) async fn wait_for(&mut self, mut has_arrived: impl AsyncFnMut() -> Option<bool>) -> bool {
        let began = self.time.now();
        let longest = pause_with_glances(self.time.since(self.looked), self.time.since(self.progressed));
        let mut took = Duration::ZERO;
        let arrived = loop {
            let chance = Duration::from_millis(self.time.random() % 100);
            self.time.pass((took * 3).clamp(LOOK_AGAIN / 2, LOOK_BETWEEN_GLANCES) + chance).await;
            let asked = self.time.now();
            if self.time.since(began) >= longest {
                break false;
            }
            match has_arrived().await {
                Some(true) => break true,
                Some(false) => {}
                None => break false,
            }
            took = self.time.since(asked);
        };
        self.looked = self.time.now();
        arrived
    }

    /// Waits before the next look.
    pub(crate) async fn wait_a_moment(&mut self) {
        // by chance, so that two gates that got in each other's way do not do so again
        let chance = Duration::from_millis(self.time.random() % 100);
        self.time.pass(pause(self.time.since(self.looked), self.time.since(self.progressed)) + chance).await;
        self.looked = self.time.now();
    }
}

/// The same where something cheaper than a look is asked meanwhile.
fn pause_with_glances(look: Duration, idle: Duration) -> Duration {
    pause(look, idle).max(LOOK_BETWEEN_GLANCES)
}

/// How long to wait before the next look: three times as long as the last one took, since a front-end that boots many VMs at
/// once is busy enough, and longer where nothing has come of looking for long.
fn pause(look: Duration, idle: Duration) -> Duration {
    (look * 3).max(idle / 16).clamp(LOOK_AGAIN, LOOK_AGAIN_AT_LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_wanes_before_it_is_exhausted_however_long_a_look_took() {
        let mut clock = Clock::start(Duration::ZERO, Rc::new(crate::sites::outside::RealTime));
        assert_eq!(clock.lateness(), Lateness::Over);
        assert_eq!(clock.patience(), Patience::Waning);
        assert_eq!(clock.patience(), Patience::Exhausted);
    }

    #[test]
    fn looks_get_rarer_where_they_cost_much_or_bring_nothing() {
        let seconds = Duration::from_secs;
        assert_eq!(pause(Duration::ZERO, Duration::ZERO), LOOK_AGAIN);
        assert_eq!(pause(seconds(1), seconds(4)), seconds(3));
        assert_eq!(pause(Duration::ZERO, seconds(32)), seconds(2));
        assert_eq!(pause(seconds(9), seconds(99)), LOOK_AGAIN_AT_LAST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_soon_after_what_is_awaited_is_there_and_not_never() {
        let milliseconds = Duration::from_millis;
        for (comes, longest) in [(milliseconds(900), 1200), (Duration::MAX, 2300)] {
            let began = Instant::now();
            let mut clock = Clock::start(FRESH, Rc::new(crate::sites::outside::RealTime));
            let came = clock.wait_for(async || Some(began.elapsed() >= comes)).await;
            assert_eq!(came, comes < Duration::MAX);
            let took = began.elapsed();
            assert!(took >= comes.min(LOOK_BETWEEN_GLANCES) && took <= milliseconds(longest), "{took:?}");
        }
    }
}
