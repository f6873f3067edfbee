//! Many builds that start at one time run a shared prefix once.

use std::sync::Barrier;

use super::remote::MemoryRemote;
use super::sharing_results::RECIPE;
use super::team::{How, Key, build, space};

#[test]
fn fifty_that_start_at_once_build_it_once() {
    const BUILDS: usize = 50;
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let start = Barrier::new(BUILDS);
    let ran: Vec<String> = std::thread::scope(|scope| {
        let builds: Vec<_> = (0..BUILDS)
            .map(|_| {
                scope.spawn(|| {
                    let space = space(RECIPE, remote.clone(), &How::with(&key));
                    start.wait();
                    build(&space).0
                })
            })
            .collect();
        builds.into_iter().flat_map(|build| build.join().unwrap()).collect()
    });
    let mut once = ran.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!((ran.len(), once.len()), (5, 5), "{ran:?}");
}
