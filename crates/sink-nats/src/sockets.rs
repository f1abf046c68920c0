//! Closes connections that the client does not close.
//!
//! The task of a client owns the socket and gives no access to it. The task notices that its client was dropped only when
//! there is nothing to receive. A server that keeps sending prevents this.

use std::net::SocketAddr;

/// Closes all connections of this process to these addresses, also those of other sinks, which then reconnect.
#[cfg(target_os = "linux")]
pub(crate) fn close_to(addresses: &[SocketAddr]) {
    use std::net::{Shutdown, TcpStream};
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers = descriptors
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for number in numbers {
        // A duplicate is checked and shut down, because the number may by then belong to another descriptor.
        let Some(socket) = duplicate(number).map(TcpStream::from) else {
            continue;
        };
        if socket.peer_addr().is_ok_and(|peer| addresses.contains(&peer)) {
            // An error means that the connection has already ended.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Duplicates a descriptor; `None` if it was closed meanwhile.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the client gives no access to its socket")]
fn duplicate(number: std::os::fd::RawFd) -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::BorrowedFd;
    // SAFETY: the number is at least 0, as it comes from the list of this process. It is only duplicated, which fails for a
    // descriptor that was closed meanwhile; nothing is read, written or closed through it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned().ok()
}

/// Does nothing: this system has no list of a process's descriptors.
#[cfg(not(target_os = "linux"))]
pub(crate) fn close_to(_: &[SocketAddr]) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn only_connections_to_the_address_are_closed() {
        let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let connect = |to: &TcpListener| {
            let client = TcpStream::connect(to.local_addr().unwrap()).unwrap();
            (client, to.accept().unwrap().0)
        };
        let (mut client, _server) = connect(&one);
        let (kept, _kept_server) = connect(&other);
        kept.set_nonblocking(true).unwrap();
        close_to(&[one.local_addr().unwrap()]);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        let error = (&kept).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}
