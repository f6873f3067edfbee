//! One call of a remote, and how its fault is told.

use std::fmt;

use super::backend::RemoteError;
use crate::wire::{self, Fault, Patience};

/// Makes calls of one remote.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) remote: String,
    pub(super) patience: Patience,
}

impl Caller {
    /// Tries until it is done, its fault lasts, or its time is over; `bytes` is how much it moves.
    ///
    /// # Errors
    /// The fault of the last try.
    pub(super) fn run<T>(
        &self,
        bytes: u64,
        attempt: impl AsyncFn() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        wire::attempt(&self.patience, bytes, attempt)
    }

    /// A fault, as it is told of a verb and what was to be had or put.
    pub(super) fn tell(
        &self,
        (verb, what): (&str, impl fmt::Display),
        bytes: u64,
        fault: Fault,
    ) -> RemoteError {
        let (remote, doing) = (self.remote.clone(), format!("{verb} {what}"));
        match fault {
            Fault::Refused(source) => RemoteError::Refused { remote, doing, source },
            Fault::Damaged => RemoteError::Damaged { remote, what: what.to_string() },
            Fault::Silent => {
                let seconds = self.patience.deadline(bytes).as_secs();
                RemoteError::TooSlow { remote, doing, seconds }
            }
            Fault::Absent(source)
            | Fault::Condition(source)
            | Fault::Passing(source, _)
            | Fault::Lasting(source) => RemoteError::Unavailable { remote, doing, source },
        }
    }

    /// [`Self::run`], with the fault as it is told.
    pub(super) fn call<T>(
        &self,
        doing: (&str, impl fmt::Display),
        bytes: u64,
        attempt: impl AsyncFn() -> Result<T, Fault>,
    ) -> Result<T, RemoteError> {
        self.run(bytes, attempt).map_err(|fault| self.tell(doing, bytes, fault))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn silence_is_told_with_the_time_that_was_waited() {
        let patience = Patience { call: Duration::from_millis(400), ..Patience::default() };
        let caller = Caller { remote: "team".into(), patience };
        let error = caller.tell(("read", "a blob"), 0, Fault::Silent);
        assert_eq!(error.to_string(), "the remote `team` did not read a blob within 0 s");
    }
}
