//! Messages between kiln's own processes: JSON behind its length, over a Unix socket.
//!
//! What the messages mean is the affair of those who send them. Both ends are kiln; the length is
//! bounded all the same, as one end may have been killed in the middle of a message. A message may
//! hold secrets: its memory is wiped, and no error quotes it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// Largest message in bytes.
const MAX_MESSAGE: u32 = 256 << 20;

/// One end of a connection between two of kiln's processes.
#[derive(Debug)]
pub struct Link(UnixStream);

impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Self {
        Self(UnixStream::from(fd))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// Two ends of a new connection.
    ///
    /// # Errors
    /// Where the host has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        UnixStream::pair().map(|(one, other)| (Self(one), Self(other)))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// Where the other end is gone.
    pub fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let payload = Zeroizing::new(serde_json::to_vec(message).map_err(|_| odd())?);
        let len = u32::try_from(payload.len()).ok().filter(|&len| len <= MAX_MESSAGE);
        let len = len.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut frame = Zeroizing::new(Vec::with_capacity(payload.len() + 4));
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&payload);
        self.0.write_all(&frame)
    }

    /// Waits for a message; `None` where the other end is gone.
    ///
    /// # Errors
    /// Where a message is cut short, too long or of another shape.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut len = [0; 4];
        match self.0.read(&mut len[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
        self.0.read_exact(&mut len[1..])?;
        let len = u32::from_le_bytes(len);
        if len > MAX_MESSAGE {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let mut payload = Zeroizing::new(vec![0; len as usize]);
        self.0.read_exact(&mut payload)?;
        serde_json::from_slice(&payload).map(Some).map_err(|_| odd())
    }

    /// Sends a descriptor, of which the other end gets a copy.
    ///
    /// # Errors
    /// Where the other end is gone.
    pub fn send_descriptor(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "the space is for one");
        sendmsg(&self.0, &[IoSlice::new(b"d")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a descriptor that the other end sends next.
    ///
    /// # Errors
    /// Where the other end is gone or sends something else.
    pub fn receive_descriptor(&mut self) -> io::Result<OwnedFd> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        control
            .drain()
            .find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            })
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    /// A second handle to this end, to hand to a child process.
    ///
    /// # Errors
    /// Where the host has no descriptor left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

/// An error that does not say what is wrong with a message, as that would quote it.
fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message of another shape")
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (mut one, mut other) = Link::pair().unwrap();
        one.send(&("first", 1)).unwrap();
        one.send_descriptor(std::io::stderr().as_fd()).unwrap();
        one.send(&vec![2; 10_000]).unwrap();
        assert_eq!(other.receive::<(String, u8)>().unwrap(), Some(("first".into(), 1)));
        assert!(other.receive_descriptor().is_ok());
        assert_eq!(other.receive::<Vec<u8>>().unwrap(), Some(vec![2; 10_000]));
        drop(one);
        assert_eq!(other.receive::<u8>().unwrap(), None);
    }

    #[test]
    fn an_error_does_not_quote_the_message() {
        let (mut one, mut other) = Link::pair().unwrap();
        one.send(&"hunter2!").unwrap();
        let error = other.receive::<u8>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        let (mut one, mut other) = Link::pair().unwrap();
        one.0.write_all(&[9, 0, 0, 0, b'"']).unwrap();
        drop(one);
        assert!(other.receive::<String>().is_err());
    }
}
