//! What programs are compiled for, and whether a host runs them.
//!
//! It does not know where a guest keeps its programs.

use serde::{Deserialize, Serialize};

/// What programs are compiled for: `e_machine` of an ELF header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Architecture {
    machine: u16,
    wide: bool,
    little: bool,
}

impl Architecture {
    /// 64-bit x86.
    pub const X86_64: Self = Self { machine: 62, wide: true, little: true };
    /// 32-bit x86.
    pub const I686: Self = Self { machine: 3, wide: false, little: true };
    /// 64-bit ARM.
    pub const AARCH64: Self = Self { machine: 183, wide: true, little: true };

    /// Takes the first 20 bytes of an ELF file apart; `None` for anything else.
    ///
    /// Source: the ELF specification (gABI 4.1), "ELF Header".
    #[must_use]
    pub fn of_elf(header: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = header.first_chunk()?;
        let (wide, little) = match header {
            [0x7f, b'E', b'L', b'F', wide @ 1..=2, little @ 1..=2, ..] => {
                (*wide == 2, *little == 1)
            }
            _ => return None,
        };
        let bytes = [header[18], header[19]];
        let machine = if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) };
        Some(Self { machine, wide, little })
    }

    /// What this program, and so the host, is compiled for.
    #[must_use]
    pub fn host() -> Self {
        let machine = match std::env::consts::ARCH {
            "x86" => 3,
            "powerpc64" => 21,
            "s390x" => 22,
            "arm" => 40,
            "x86_64" => 62,
            "aarch64" => 183,
            "riscv64" => 243,
            "loongarch64" => 258,
            _ => 0,
        };
        Self {
            machine,
            wide: cfg!(target_pointer_width = "64"),
            little: cfg!(target_endian = "little"),
        }
    }

    /// Whether a kernel of this architecture runs programs of `guest` without emulation.
    #[must_use]
    pub fn runs(self, guest: Self) -> bool {
        self == guest || (self == Self::X86_64 && guest == Self::I686)
    }

    /// Its name, as `uname -m` gives it.
    #[must_use]
    pub fn name(self) -> String {
        match (self.machine, self.wide, self.little) {
            (3, ..) => "i686".into(),
            (20, ..) => "ppc".into(),
            (21, _, true) => "ppc64le".into(),
            (21, ..) => "ppc64".into(),
            (22, ..) => "s390x".into(),
            (40, ..) => "arm".into(),
            (62, true, _) => "x86_64".into(),
            (62, ..) => "x32".into(),
            (183, _, true) => "aarch64".into(),
            (243, true, _) => "riscv64".into(),
            (243, ..) => "riscv32".into(),
            (258, ..) => "loongarch64".into(),
            (machine, ..) => format!("ELF machine {machine}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn architectures_come_from_elf_headers() {
        let header = |class, data, machine: [u8; 2]| {
            let mut header = vec![0x7f, b'E', b'L', b'F', class, data];
            header.resize(18, 0);
            header.extend(machine);
            Architecture::of_elf(&header).unwrap()
        };
        assert_eq!(header(2, 1, [62, 0]), Architecture::X86_64);
        assert_eq!(header(1, 1, [3, 0]), Architecture::I686);
        assert_eq!(header(2, 2, [0, 22]).name(), "s390x");
        assert_eq!(header(2, 1, [21, 0]).name(), "ppc64le");
        assert!(Architecture::X86_64.runs(Architecture::I686));
        assert!(!Architecture::I686.runs(Architecture::X86_64));
        assert_eq!(Architecture::of_elf(b"#!/bin/sh\n0123456789"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text: Vec<u8>) {
            let _ = Architecture::of_elf(&text);
        }
    }
}
