//! The one room for `unsafe`: the few system calls that no crate wraps.
//!
//! Every function here is safe to call; each use of `unsafe` says why it is sound.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::ioctl::{self, Opcode};

/// Takes over a descriptor that a parent process passed by number.
///
/// # Errors
/// Where no such descriptor is open.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowing only for one call that fails on a closed descriptor; the number is not
    // negative, as a descriptor's never is.
    let open = fd >= 0
        && unsafe { rustix::io::fcntl_getfd(std::os::fd::BorrowedFd::borrow_raw(fd)).is_ok() };
    if !open {
        return Err(io::Error::from(rustix::io::Errno::BADF));
    }
    // SAFETY: it is open, and the parent passed it for this process alone; nothing else in this
    // process knows its number before this call, which each role makes once, at its start.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// Gives children of this process a pid namespace of their own.
///
/// # Errors
/// Where the caller may not, or has a second thread.
pub fn unshare_pid_namespace() -> io::Result<()> {
    // SAFETY: CLONE_NEWPID changes nothing about this process's memory or descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) }?;
    Ok(())
}

/// Gives this process mounts of its own.
///
/// # Errors
/// Where the caller may not.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: CLONE_NEWNS changes nothing about this process's memory or descriptors. It also
    // gives it an own root and working directory, which is what a single-threaded role wants.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    Ok(())
}

/// An ioctl whose argument is a number, not a pointer.
fn ioctl_number<const OPCODE: Opcode>(fd: impl AsFd, argument: usize) -> io::Result<i32> {
    struct Number<const OPCODE: Opcode>(usize);

    // SAFETY: the opcodes used in this file take their argument by value, so no memory is read or
    // written by the kernel.
    unsafe impl<const OPCODE: Opcode> ioctl::Ioctl for Number<OPCODE> {
        type Output = i32;
        const IS_MUTATING: bool = false;

        fn opcode(&self) -> Opcode {
            OPCODE
        }

        fn as_ptr(&mut self) -> *mut c_void {
            std::ptr::without_provenance_mut(self.0)
        }

        unsafe fn output_from_ptr(
            out: ioctl::IoctlOutput,
            _: *mut c_void,
        ) -> rustix::io::Result<Self::Output> {
            Ok(out)
        }
    }

    // SAFETY: as above.
    Ok(unsafe { ioctl::ioctl(fd, Number::<OPCODE>(argument)) }?)
}

/// An ioctl that reads a structure, and may write into it.
///
/// # Safety
/// `T` is the structure that the kernel expects for `OPCODE`, and valid for every bit pattern.
unsafe fn ioctl_struct<const OPCODE: Opcode, T>(fd: impl AsFd, value: &mut T) -> io::Result<()> {
    // SAFETY: the caller vouches for the type; the pointer is valid for the length of the call.
    unsafe { ioctl::ioctl(fd, ioctl::Updater::<OPCODE, T>::new(value)) }?;
    Ok(())
}

// Numbers and structures from linux/loop.h, linux/blkpg.h and linux/fs.h, the same on every
// architecture that Rust's std supports here, but for the ones computed by `opcode`.
const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_GET_STATUS64: Opcode = 0x4C05;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const BLKPG: Opcode = 0x1269;
const FIFREEZE: Opcode = ioctl::opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = ioctl::opcode::read_write::<i32>(b'X', 120);
const FITRIM: Opcode = ioctl::opcode::read_write::<FsTrimRange>(b'X', 121);

/// The loop device goes when its last user does.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_READ_ONLY: u32 = 1;
/// The device's partitions go with what is attached, however its last user ends.
const LO_FLAGS_PARTSCAN: u32 = 8;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Longest name in `loop_info64`, less its NUL.
pub const LOOP_NAME: usize = 63;

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

impl LoopInfo64 {
    fn zeroed() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// How a loop device is attached.
#[derive(Debug, Clone, Copy)]
pub struct LoopOptions<'a> {
    /// A name of at most [`LOOP_NAME`] bytes, by which the device is found again.
    pub name: &'a str,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Whether the page cache of the backing file is passed by.
    pub direct: bool,
}

/// The number of a loop device that nobody uses at this moment.
///
/// # Errors
/// Where the kernel has none.
pub fn free_loop_device(control: impl AsFd) -> io::Result<u32> {
    let number = ioctl_number::<LOOP_CTL_GET_FREE>(control, 0)?;
    u32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Attaches a file to a loop device, which detaches by itself when its last user is gone.
///
/// # Errors
/// `EBUSY` where somebody else took the device in between.
pub fn attach_loop(
    device: impl AsFd,
    backing: impl AsFd,
    options: LoopOptions<'_>,
) -> io::Result<()> {
    let mut info = LoopInfo64::zeroed();
    info.flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_PARTSCAN;
    if options.read_only {
        info.flags |= LO_FLAGS_READ_ONLY;
    }
    if options.direct {
        info.flags |= LO_FLAGS_DIRECT_IO;
    }
    let name = &options.name.as_bytes()[..options.name.len().min(LOOP_NAME)];
    info.file_name[..name.len()].copy_from_slice(name);
    let fd = u32::try_from(backing.as_fd().as_raw_fd()).expect("descriptors are not negative");
    let mut config = LoopConfig { fd, block_size: 512, info, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE takes `struct loop_config`, whose layout this is.
    unsafe { ioctl_struct::<LOOP_CONFIGURE, _>(device, &mut config) }
}

/// The name that a loop device was attached with; `None` where nothing is attached.
///
/// # Errors
/// Where the kernel does not tell.
pub fn loop_name(device: impl AsFd) -> io::Result<Option<String>> {
    let mut info = LoopInfo64::zeroed();
    // SAFETY: LOOP_GET_STATUS64 fills a `struct loop_info64`, whose layout this is.
    match unsafe { ioctl_struct::<LOOP_GET_STATUS64, _>(device, &mut info) } {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(error),
        Ok(()) => {
            let end = info.file_name.iter().position(|&byte| byte == 0).unwrap_or(64);
            Ok(Some(String::from_utf8_lossy(&info.file_name[..end]).into_owned()))
        }
    }
}

/// Detaches a loop device now, or when its last user is gone.
///
/// # Errors
/// Where nothing is attached.
pub fn detach_loop(device: impl AsFd) -> io::Result<()> {
    ioctl_number::<LOOP_CLR_FD>(device, 0).map(drop)
}

#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

#[repr(C)]
struct BlkpgArgument {
    operation: i32,
    flags: i32,
    length: i32,
    data: *mut BlkpgPartition,
}

const BLKPG_ADD_PARTITION: i32 = 1;
const BLKPG_DEL_PARTITION: i32 = 2;

/// Tells the kernel of a partition of a block device: its number, first byte and bytes.
///
/// # Errors
/// Where it overlaps one that the kernel knows, or does not fit.
pub fn add_partition(device: impl AsFd, number: u32, start: u64, length: u64) -> io::Result<()> {
    blkpg(device, BLKPG_ADD_PARTITION, number, start, length)
}

/// Takes a partition away from the kernel; its data stays.
///
/// # Errors
/// Where it is in use.
pub fn delete_partition(device: impl AsFd, number: u32) -> io::Result<()> {
    blkpg(device, BLKPG_DEL_PARTITION, number, 0, 0)
}

fn blkpg(
    device: impl AsFd,
    operation: i32,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: start.try_into().map_err(too_large)?,
        length: length.try_into().map_err(too_large)?,
        number: number.try_into().map_err(too_large)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let mut argument = BlkpgArgument {
        operation,
        flags: 0,
        length: i32::try_from(size_of::<BlkpgPartition>()).expect("a small structure"),
        data: &raw mut partition,
    };
    // SAFETY: BLKPG takes `struct blkpg_ioctl_arg`, whose layout this is; it points to a structure
    // that lives until the call returns.
    unsafe { ioctl_struct::<BLKPG, _>(device, &mut argument) }
}

#[repr(C)]
struct FsTrimRange {
    start: u64,
    len: u64,
    minimum: u64,
}

/// Holds all writing to the file system of a directory until [`thaw`], its journal written out.
///
/// # Errors
/// `EBUSY` where it is frozen already, `EOPNOTSUPP` where it cannot be, `EIO` where something that
/// was written before was lost.
pub fn freeze(directory: impl AsFd) -> io::Result<()> {
    ioctl_number::<FIFREEZE>(directory, 0).map(drop)
}

/// Ends [`freeze`].
///
/// # Errors
/// `EINVAL` where it is not frozen.
pub fn thaw(directory: impl AsFd) -> io::Result<()> {
    ioctl_number::<FITHAW>(directory, 0).map(drop)
}

/// Discards all free space of the file system of a directory; tells how many bytes that were.
///
/// # Errors
/// `EOPNOTSUPP` where it cannot.
pub fn trim(directory: impl AsFd) -> io::Result<u64> {
    let mut range = FsTrimRange { start: 0, len: u64::MAX, minimum: 0 };
    // SAFETY: FITRIM takes `struct fstrim_range`, whose layout this is.
    unsafe { ioctl_struct::<FITRIM, _>(directory, &mut range) }?;
    Ok(range.len)
}
