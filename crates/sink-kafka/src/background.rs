//! Destroys clients of librdkafka on another thread, because the destruction blocks.

use std::{
    ops::{Deref, DerefMut},
    thread,
};

/// Clients of librdkafka that are destroyed on another thread when this value is dropped. The destruction waits for librdkafka's
/// own threads, which takes some 100 ms, or longer if one of them waits for a name server.
pub(crate) struct Background<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Background<T> {
    pub(crate) const fn new(clients: T) -> Self {
        Self(Some(clients))
    }
}

impl<T: Send + 'static> Deref for Background<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("the clients are taken only by the drop")
    }
}

impl<T: Send + 'static> DerefMut for Background<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("the clients are taken only by the drop")
    }
}

impl<T: Send + 'static> Drop for Background<T> {
    fn drop(&mut self) {
        let clients = self.0.take();
        // If no thread can be started, the clients are destroyed on this thread.
        let _ = thread::Builder::new()
            .name("kafka-end".into())
            .spawn(move || drop(clients));
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    /// Longer than the start of a thread takes.
    const LIMIT: Duration = Duration::from_secs(60);

    struct Slow(mpsc::Receiver<()>, mpsc::Sender<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.recv_timeout(LIMIT).unwrap();
            self.1.send(()).unwrap();
        }
    }

    #[test]
    fn drop_does_not_wait_for_the_end_of_the_clients() {
        let ((may_end, waits), (ends, ended)) = (mpsc::channel(), mpsc::channel());
        drop(Background::new(Slow(waits, ends)));
        assert!(ended.try_recv().is_err());
        may_end.send(()).unwrap();
        ended.recv_timeout(LIMIT).unwrap();
    }
}
