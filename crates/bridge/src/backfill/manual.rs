//! Fetches the events of a period on request, for the command `neurobridge backfill`.

use neurobridge_platform::{RequestError, StopReason, Window, sentence};
use tokio::sync::mpsc;
use tracing::info;

use super::{Filler, Interrupted};
use crate::{control::Answer, exit::Exit, parts::BackfillRequest, state::State};

/// The largest number of requests of a source that wait.
const MAX_WAITING: usize = 4;

/// Returns the channel of the requests of a source.
pub(crate) fn channel() -> (mpsc::Sender<BackfillRequest>, mpsc::Receiver<BackfillRequest>) {
    mpsc::channel(MAX_WAITING)
}

impl Filler {
    /// Fetches and stores the events of a period, and answers with their number. A failed attempt is not repeated.
    pub(super) async fn fetch_on_request(
        &mut self,
        request: BackfillRequest,
        state: &State,
    ) -> Result<(), Interrupted> {
        // After a start, the intake first has to load the events of earlier runs: without them, fetched copies of these events
        // would be stored again.
        self.known_events_loaded.cancelled().await;
        let window = Window {
            after: request.after,
            skips_known: false,
            from: request.from,
            to: Some(request.to),
            overlap: self.skew(state),
        };
        let before = self.backfilled();
        let fetched = self.fetch(&window, None, None).await?;
        self.stored().await;
        let stored = self.backfilled() - before;
        let known = fetched.sent - stored;
        let source = &*self.source.name;
        let (from, to) = (request.from, request.to);
        let (exit, outcome) = match &fetched.reason {
            None => {
                info!(source, %from, %to, stored, known, "backfill on request complete");
                (Exit::Ok, "all events were read".to_owned())
            }
            Some(reason) => {
                let (exit, reason) = (exit_of(reason), sentence(reason));
                info!(source, %from, %to, stored, known, reason, "backfill on request incomplete");
                (exit, format!("not all events were read: {reason}"))
            }
        };
        let text = format!("{stored} missed events were stored, {known} known ones were not; {outcome}\n");
        // The command may have ended.
        let _ = request.answer.send(Answer {
            exit: exit.code(),
            text,
        });
        Ok(())
    }
}

const fn exit_of(reason: &StopReason) -> Exit {
    match reason {
        StopReason::Request(RequestError::Unauthorised { .. }) => Exit::TokenRefused,
        _ => Exit::Unavailable,
    }
}
