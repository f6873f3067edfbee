//! One call of a server: a bounded time, a few tries, and a fault of one kind.
//!
//! It knows time and kinds of fault, not what is asked. The calls of all servers run on one runtime,
//! each driven by the thread that made it.

use std::error::Error;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

/// A cause, as whoever failed told it.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// How long a server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Longest time until a connection stands.
    pub connect: Duration,
    /// Longest time in which nothing comes, before an answer or in its middle.
    pub idle: Duration,
    /// Longest time of a whole call with all its tries, beside what its bytes need.
    pub call: Duration,
    /// Bytes a second that a server has to move at least, measured over a whole call.
    pub rate: u64,
    /// How many times more a call is tried whose fault may pass.
    pub retries: u32,
    /// Time before the first of these; it doubles with each.
    pub pause: Duration,
    /// Longest time that failures may cost in all before a server is left out.
    pub budget: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(10),
            call: Duration::from_secs(15),
            rate: 128 << 10,
            retries: 2,
            pause: Duration::from_millis(300),
            budget: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// Longest time of a call that moves so many bytes.
    pub(crate) fn deadline(&self, bytes: u64) -> Duration {
        self.call + Duration::from_secs(bytes / self.rate.max(1))
    }
}

/// What went wrong with one try.
#[derive(Debug)]
pub(crate) enum Fault {
    /// What was asked for is not there.
    Absent(Cause),
    /// This user may not do that.
    Refused(Cause),
    /// The condition of a write does not hold.
    Condition(Cause),
    /// The answer cannot be the right one.
    Damaged,
    /// Nothing came for too long.
    Silent,
    /// It may be well in a moment: after this time, where the server says one.
    Passing(Cause, Option<Duration>),
    /// It will not be well by itself.
    Lasting(Cause),
}

/// The runtime of all calls. Its threads only help: a call is driven by the thread that waits for it.
fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("kiln-wire")
            .enable_all()
            .build()
            .expect("a process that runs can have two threads more")
    });
    &RUNTIME
}

/// Tries until it is done, its fault lasts, or its time is over; `bytes` is how much it moves.
///
/// # Errors
/// The fault of the last try.
pub(crate) fn attempt<T>(
    patience: &Patience,
    bytes: u64,
    attempt: impl AsyncFn() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let deadline = patience.deadline(bytes);
    runtime().block_on(async {
        let tries = tries(patience, deadline, attempt);
        tokio::time::timeout(deadline, tries).await.unwrap_or(Err(Fault::Silent))
    })
}

async fn tries<T>(
    patience: &Patience,
    deadline: Duration,
    attempt: impl AsyncFn() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let start = Instant::now();
    let mut pause = patience.pause;
    let mut left = patience.retries;
    loop {
        let fault = match attempt().await {
            Err(fault @ (Fault::Passing(..) | Fault::Silent)) if left > 0 => fault,
            result => return result,
        };
        let wait = match &fault {
            Fault::Passing(_, Some(wait)) => *wait,
            _ => pause,
        };
        // What is known now says more than that the time is over.
        if start.elapsed() + wait >= deadline {
            return Err(fault);
        }
        tokio::time::sleep(wait).await;
        left -= 1;
        pause *= 2;
    }
}

/// Runs what blocks on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn patience() -> Patience {
        Patience {
            call: Duration::from_millis(400),
            retries: 3,
            pause: Duration::from_millis(10),
            ..Patience::default()
        }
    }

    fn passing(wait: Option<Duration>) -> Fault {
        Fault::Passing("busy".into(), wait)
    }

    #[test]
    fn what_passes_is_tried_again_and_what_lasts_is_not() {
        let tries = AtomicU32::new(0);
        let count = || tries.fetch_add(1, Ordering::Relaxed);
        let done =
            attempt(&patience(), 0, async || if count() < 2 { Err(passing(None)) } else { Ok(7) });
        assert_eq!((done.unwrap(), tries.swap(0, Ordering::Relaxed)), (7, 3));

        let fault = attempt::<()>(&patience(), 0, async || {
            count();
            Err(passing(None))
        });
        assert!(matches!(fault, Err(Fault::Passing(..))), "{fault:?}");
        assert_eq!(tries.swap(0, Ordering::Relaxed), 4);

        let fault = attempt::<()>(&patience(), 0, async || {
            count();
            Err(Fault::Lasting("no".into()))
        });
        assert!(matches!(fault, Err(Fault::Lasting(..))), "{fault:?}");
        assert_eq!(tries.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_call_ends_with_its_time_and_never_waits_beyond_it() {
        let fault = attempt::<()>(&patience(), 0, async || std::future::pending().await);
        assert!(matches!(fault, Err(Fault::Silent)), "{fault:?}");
        let hour = Some(Duration::from_hours(1));
        let fault = attempt::<()>(&patience(), 0, async || Err(passing(hour)));
        assert!(matches!(fault, Err(Fault::Passing(..))), "{fault:?}");
    }

    #[test]
    fn bytes_have_time() {
        let patience = Patience::default();
        assert_eq!(patience.deadline(0), patience.call);
        assert_eq!(patience.deadline(10 * patience.rate), patience.call + Duration::from_secs(10));
    }
}
