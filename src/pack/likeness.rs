//! Which parts of a layer are like others of it: by samples of their bytes, wherever they lie.
//!
//! Programs that are built from the same sources, static and shared forms of one library, files that
//! are installed twice in two versions: they are the same for hundreds of bytes at a time, at
//! addresses that no block shares. A sample is the value of a rolling hash over 64 bytes (Gear, from
//! W. Xia et al., "FastCDC", USENIX ATC 2016) where its upper bits are zero, so that the same bytes
//! give the same samples whatever stands around them.

use std::collections::HashMap;

/// One byte in so many is the end of a sample.
const ONE_IN: u32 = 10;
/// Samples that two parts have in common at least, to be alike.
const COMMON: usize = 32;
/// Parts that one is packed behind, at most.
const MOST: usize = 3;

/// The samples of some bytes, each once.
pub(super) fn samples(bytes: &[u8]) -> Vec<u64> {
    let mut samples = Vec::with_capacity(bytes.len() >> ONE_IN);
    let mut hash = 0u64;
    for &byte in bytes {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(byte)]);
        if hash >> (64 - ONE_IN) == 0 {
            samples.push(hash);
        }
    }
    samples.sort_unstable();
    samples.dedup();
    samples
}

/// For each part those before it that it is like, most alike first; only parts that are like no
/// others are named.
pub(super) fn roots(parts: &[Vec<u64>]) -> Vec<Vec<usize>> {
    let mut known: HashMap<u64, u32> = HashMap::new();
    let mut roots = Vec::with_capacity(parts.len());
    for (number, samples) in parts.iter().enumerate() {
        let mut common: HashMap<u32, usize> = HashMap::new();
        for root in samples.iter().filter_map(|sample| known.get(sample)) {
            *common.entry(*root).or_default() += 1;
        }
        let mut alike: Vec<(usize, u32)> =
            common.into_iter().map(|(root, count)| (count, root)).collect();
        alike.retain(|(count, _)| *count >= COMMON);
        alike.sort_unstable_by_key(|&(count, root)| (std::cmp::Reverse(count), root));
        alike.truncate(MOST);
        if alike.is_empty() {
            let number = u32::try_from(number).expect("fewer than 2^32 parts");
            for sample in samples {
                known.entry(*sample).or_insert(number);
            }
        }
        roots.push(alike.into_iter().map(|(_, root)| root as usize).collect());
    }
    roots
}

/// One random number for each byte: `SplitMix64` from nought.
const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut state = 0u64;
    let mut at = 0;
    while at < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut word = seed;
        std::iter::repeat_with(|| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (word >> 33).to_le_bytes()[0]
        })
        .take(len)
        .collect()
    }

    #[test]
    fn the_same_bytes_elsewhere_are_found() {
        let (one, other) = (noise(1, 1 << 18), noise(2, 1 << 18));
        let moved = [noise(3, 777), one[1000..].to_vec()].concat();
        let parts: Vec<_> = [&one, &other, &moved].map(|bytes| samples(bytes)).to_vec();
        assert_eq!(roots(&parts), [vec![], vec![], vec![0]]);
    }

    #[test]
    fn nothing_is_like_zeros() {
        assert!(samples(&[0; 4096]).len() <= 1);
        let zeros = samples(&vec![0; 1 << 20]);
        assert_eq!(roots(&[zeros.clone(), zeros]), [vec![0; 0], vec![]]);
    }
}
