//! The low-water mark: the number of waiting bytes from which the system reports a socket as readable.
//!
//! While a socket rests (is not read for some milliseconds, see `pace.rs`), each arriving segment would wake the runtime's
//! thread, although no task reads. With a higher low-water mark, the system reports the data together when the mark is
//! lowered; Linux before 4.18 reports it only with the next segment.

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsFd, OwnedFd};

    use nix::{setsockopt_impl, sockopt_impl, sys::socket::setsockopt};

    sockopt_impl!(
        /// The option `SO_RCVLOWAT` of socket(7).
        LowWaterMark,
        SetOnly,
        libc::SOL_SOCKET,
        libc::SO_RCVLOWAT,
        usize
    );

    /// The mark during a rest, in bytes. Below the size of the receive buffer, so that the system does not enlarge the buffer.
    const RESTING_BYTES: usize = 32 << 10;

    /// The low-water mark of one socket. The default value has no socket and changes nothing.
    #[derive(Debug, Default)]
    pub(crate) struct LowWater {
        /// A duplicate of the socket's descriptor. The connection stays open until the duplicate is dropped.
        socket: Option<OwnedFd>,
        is_raised: bool,
    }

    impl LowWater {
        /// Returns the low-water mark of a socket. If no descriptor is available, the mark stays at its default.
        pub(crate) fn of(socket: &impl AsFd) -> Self {
            Self {
                socket: socket.as_fd().try_clone_to_owned().ok(),
                is_raised: false,
            }
        }

        /// Raises the mark, so that data accumulates.
        pub(crate) fn raise(&mut self) {
            self.is_raised = self.set(RESTING_BYTES);
        }

        /// Lowers the mark to its default: data that has accumulated is reported at once.
        pub(crate) fn lower(&mut self) {
            if std::mem::take(&mut self.is_raised) {
                // The result is ignored: the option was set before, so the system supports it.
                self.set(1);
            }
        }

        fn set(&self, bytes: usize) -> bool {
            let socket = self.socket.as_ref();
            socket.is_some_and(|socket| setsockopt(socket, LowWaterMark, &bytes).is_ok())
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::LowWater;

/// Does nothing: other systems do not report accumulated data when the mark is lowered.
#[cfg(not(target_os = "linux"))]
#[derive(Debug, Default)]
pub(crate) struct LowWater;

#[cfg(not(target_os = "linux"))]
impl LowWater {
    pub(crate) fn of<S>(_socket: &S) -> Self {
        Self
    }

    pub(crate) fn raise(&mut self) {}

    pub(crate) fn lower(&mut self) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    /// The limit of a wait that should end at once.
    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn accumulated_data_is_reported_when_the_mark_is_lowered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut low_water = LowWater::of(&stream);
        for round in 0..3_u8 {
            low_water.raise();
            for _ in 0..5 {
                server.write_all(&[round]).await.unwrap();
            }
            let reported = timeout(LIMIT / 200, stream.readable()).await;
            assert!(reported.is_err(), "reported during the rest");
            low_water.lower();
            let mut read = [0; 5];
            timeout(LIMIT, stream.read_exact(&mut read))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(read, [round; 5]);
            server.write_all(&[9]).await.unwrap();
            let single = timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap();
            assert_eq!(single, 9, "after the rest, a single byte is reported at once");
            // Nothing is left that would be reported in the next round.
            assert!(stream.try_read(&mut read).is_err());
        }
        low_water.raise();
        drop(server);
        let end = timeout(LIMIT, stream.read_u8()).await.unwrap();
        assert!(end.is_err(), "the end is reported during a rest too");
    }
}
