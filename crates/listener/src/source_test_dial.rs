//! A dialler for tests: connects to a scripted platform in memory, whose ends a test receives.

use super::*;

/// Passes the platform's end of each connection to a test.
pub(super) struct TestDial {
    pub(super) platforms: mpsc::UnboundedSender<Platform>,
    /// The errors of the first dials.
    pub(super) failures: Arc<Mutex<Vec<DialError>>>,
    /// The query of each request, after the address if it is not the configured one.
    pub(super) requests: Arc<Mutex<Vec<String>>>,
}

impl Dial for TestDial {
    type Stream = DuplexStream;

    async fn dial(
        &self,
        request: &ConnectionRequest,
        other: Option<&Endpoint>,
    ) -> Result<Dialled<DuplexStream>, DialError> {
        if let Some(endpoint) = other {
            self.requests.lock().unwrap().push(endpoint.uri.to_string());
        }
        self.requests.lock().unwrap().push(request.query.clone());
        if let Some(failure) = self.failures.lock().unwrap().pop() {
            return Err(failure);
        }
        let (socket, platform) = sockets().await;
        if self.platforms.send(platform).is_err() {
            // The test has closed the channel, so that no dial succeeds any more.
            std::future::pending::<()>().await;
        }
        Ok(Dialled {
            socket,
            clock_skew_seconds: None,
        })
    }
}
