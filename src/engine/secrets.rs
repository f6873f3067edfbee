//! Secrets in a build: which values its actions need, and that none of them gets into a layer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use crate::disk::layer::{BLOCK, BLOCK_LEN};
use crate::disk::overlay::Changed;
use crate::execute::{Fault, FaultKind};
use crate::files::{Context, FileError};
use crate::key::Action;
use crate::name::SecretName;
use crate::secret::{EdgeFinds, Found, Scanner, SecretError, SecretValue, Vault};

/// Blocks that are looked at in one go: 4 MiB.
const STRIDE: u64 = 1024;

/// The values that an action's programs are given or the guest is registered with.
pub(super) fn values(
    action: &Action,
    vault: &Vault,
) -> Result<Vec<(SecretName, SecretValue)>, SecretError> {
    let account = action.registration.as_ref().map(|registration| registration.account.secret());
    let mut values: Vec<(SecretName, SecretValue)> = Vec::new();
    for secret in action.aids.secrets.iter().chain(account) {
        if values.iter().all(|(name, _)| *name != secret.name) {
            values.push((secret.name.clone(), vault.value(&secret.name)?));
        }
    }
    Ok(values)
}

/// The fault of a step that put a secret on the disk.
pub(super) fn in_layer(Found { name, line }: &Found) -> Fault {
    let part = if *line { "one line of the value" } else { "the value" };
    Fault::new(
        FaultKind::Step,
        "kiln::engine::secret_in_layer",
        format!("{part} of the secret `{name}` is on the image's disk"),
    )
    .with_help(
        "nothing was recorded; read the secret where it is, in /run/kiln/secrets: a copy in the \
         guest stays in the layer even if it is deleted again",
    )
}

/// The first secret in what an epoch wrote.
///
/// Blocks that follow each other on the disk are read as one text. What lies apart is put together
/// from two parts: a value that a file's end of one block and beginning of another hold.
pub(super) fn find(
    scanner: &Scanner,
    file: &File,
    path: &Path,
    changed: &[Changed],
) -> Result<Option<Found>, FileError> {
    let mut edges = EdgeFinds::default();
    for run in runs(changed) {
        let blocks = run.iter().map(|part| part.1).sum();
        let starts: Vec<u64> =
            (0..blocks).step_by(usize::try_from(STRIDE).expect("a small number")).collect();
        for window in starts.chunks(rayon::current_num_threads() * 2) {
            let found: Vec<(Option<Found>, EdgeFinds)> = window
                .par_iter()
                .map(|&start| {
                    let count = (blocks - start).min(STRIDE);
                    look(scanner, file, path, &run, start, count)
                })
                .collect::<Result<_, FileError>>()?;
            for (found, more) in found {
                if found.is_some() {
                    return Ok(found);
                }
                edges = edges.and(more);
            }
        }
    }
    Ok(scanner.joined(&edges))
}

/// Slots and lengths of what was written, those that follow each other on the disk together.
fn runs(changed: &[Changed]) -> Vec<Vec<(u64, u64)>> {
    let mut runs: Vec<Vec<(u64, u64)>> = Vec::new();
    let mut end = None;
    for Changed { start, len, slot } in changed {
        let Some(slot) = slot else { continue };
        match runs.last_mut() {
            Some(run) if end == Some(*start) => run.push((*slot, *len)),
            _ => runs.push(vec![(*slot, *len)]),
        }
        end = Some(start + len);
    }
    runs
}

/// Looks at some blocks of a run, and at as much behind them as a value that begins there takes.
fn look(
    scanner: &Scanner,
    file: &File,
    path: &Path,
    run: &[(u64, u64)],
    start: u64,
    count: u64,
) -> Result<(Option<Found>, EdgeFinds), FileError> {
    let more = (scanner.longest() as u64).div_ceil(BLOCK);
    let mut bytes = Vec::new();
    let (mut at, end) = (0, start + count + more);
    for &(slot, len) in run {
        let (from, to) = (start.clamp(at, at + len), end.clamp(at, at + len));
        if from < to {
            let filled = bytes.len();
            let size = usize::try_from((to - from) * BLOCK).expect("a few megabytes");
            bytes.resize(filled + size, 0);
            let offset = (slot + from - at) * BLOCK;
            file.read_exact_at(&mut bytes[filled..], offset).context("read", path)?;
        }
        at += len;
    }
    if let Some(found) = scanner.find(&bytes) {
        return Ok((Some(found), EdgeFinds::default()));
    }
    let own = usize::try_from(count).expect("a few blocks");
    let blocks = bytes.chunks_exact(BLOCK_LEN).take(own);
    let edges = blocks.fold(EdgeFinds::default(), |edges, block| edges.and(scanner.edges(block)));
    Ok((None, edges))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const VALUE: &[u8] = b"a value of twenty-six bytes";

    fn scanner(value: &[u8]) -> Scanner {
        Scanner::new(&[("token".parse().unwrap(), SecretValue(value.to_vec()))])
    }

    /// An overlay whose slots hold `bytes`, and what is found in some runs of it.
    fn found(bytes: &[u8], changed: &[Changed], value: &[u8]) -> bool {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let found = find(&scanner(value), file.as_file(), file.path(), changed).unwrap();
        found.is_some_and(|found| found.name.as_str() == "token")
    }

    fn changed(start: u64, len: u64, slot: u64) -> Changed {
        Changed { start, len, slot: Some(slot) }
    }

    #[test]
    fn a_value_is_found_across_the_slots_of_neighbours() {
        // Block 6 was written before block 5, so that it has the lower slot.
        let mut bytes = vec![0; 2 * BLOCK_LEN];
        bytes[..20].copy_from_slice(&VALUE[VALUE.len() - 20..]);
        let cut = VALUE.len() - 20;
        bytes[2 * BLOCK_LEN - cut..].copy_from_slice(&VALUE[..cut]);
        assert!(found(&bytes, &[changed(5, 1, 1), changed(6, 1, 0)], VALUE));
        // Its parts in blocks that lie apart are put together as well.
        assert!(found(&bytes, &[changed(5, 1, 1), changed(9, 1, 0)], VALUE));
        assert!(!found(&bytes, &[changed(5, 1, 1)], VALUE));
        let hole = Changed { start: 6, len: 1, slot: None };
        assert!(!found(&bytes, &[changed(5, 1, 1), hole], VALUE));
    }

    #[test]
    fn a_value_is_found_at_every_seam_of_what_is_read_at_once() {
        let stride = usize::try_from(STRIDE).unwrap() * BLOCK_LEN;
        let long = VALUE.repeat(400);
        for value in [VALUE, &long] {
            for at in [0, stride - 10, stride, 2 * stride - value.len(), 2 * stride - 7] {
                let mut bytes = vec![7; 3 * stride];
                bytes[at..at + value.len()].copy_from_slice(value);
                assert!(found(&bytes, &[changed(40, 3 * STRIDE, 0)], value), "{at}");
                bytes[at] ^= 1;
                assert!(!found(&bytes, &[changed(40, 3 * STRIDE, 0)], value), "{at}");
            }
        }
    }

    /// Prints how fast it is: `cargo test --release --lib speed_of_a_scan -- --ignored --nocapture`.
    #[test]
    #[ignore = "takes a while, and asserts nothing about time"]
    fn speed_of_a_scan() {
        let mut word = 1u64;
        let bytes: Vec<u8> = (0..64 << 20 >> 3)
            .flat_map(|_| {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (word ^ word >> 29).to_le_bytes()
            })
            .collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let changed = [changed(0, bytes.len() as u64 / BLOCK, 0)];
        let scanner = scanner(VALUE);
        let start = std::time::Instant::now();
        assert_eq!(find(&scanner, file.as_file(), file.path(), &changed).unwrap(), None);
        println!("{:.0} MiB/s", 64.0 / start.elapsed().as_secs_f64());
    }
}
