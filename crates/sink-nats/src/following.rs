//! The part of a connection that makes its sink a member of a cluster.
//!
//! A follower reads the stream, or without JetStream the subjects, and settles its own copies of the events that others have
//! published. A takeover reads the stream to its end, settles the events that are stored there, and begins a chain after the
//! end. A message that another member stores in between breaks that chain, and the takeover begins again. So no event is
//! stored twice, however many members act as the leader.
//!
//! Messages of an earlier leader may reach the stream after the takeover. Each of them expects one of the places that follow
//! the end of the stream. Until the stream has passed these places, it is [contested](Following::is_contested), and the new
//! leader sends each message alone: with several messages in flight, one of them could be stored after a refused one.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Instant};

use async_nats::Client;
use neurobridge_core::{
    copies::{Copies, Identity, MessagePosition},
    event::{Event, Sequence},
    lead::{FOLLOWER_READ_INTERVAL, Lead},
    sink::{Ack, Outcome, SinkFault},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    error,
    events::Events,
    stream::{Api, Stream},
    stream_reader::{Found, StreamReader},
    subject_reader::{self, SubjectReader},
};

/// The number of messages at the end of the stream that a member without a stored position reads.
const LOOK_BACK: u64 = 1 << 17;

/// The largest number of messages in flight with strict order. Small, because as many messages of an earlier leader may
/// arrive late, and the new leader sends each message alone until the stream has passed the places that they expect.
pub(crate) const MAX_CHAINED: usize = 256;

/// The pending answer about a place of the stream: `None` if there is no message.
type PlaceAnswer = Pin<Box<dyn Future<Output = Result<Option<u64>, SinkFault>> + Send>>;

/// The state that survives a connection: the right to publish, and the messages that were read.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) lead: Lead,
    pub(crate) copies: Copies,
}

impl Membership {
    pub(crate) fn new(lead: Lead) -> Self {
        Self {
            lead,
            copies: Copies::default(),
        }
    }

    /// Returns the place from which the stream has to be read after a restart.
    pub(crate) fn resume(&self) -> Option<u64> {
        self.copies.resume(0)
    }

    /// Sets the place at which reading begins, if nothing was read in this process: the place stored with the cursor,
    /// otherwise [`LOOK_BACK`] before the end. Begins at the first message if the stream ends before that place, because it
    /// was recreated.
    pub(crate) fn begin(&mut self, stream: &Stream, stored: Option<u64>) {
        let end = stream.last_place() + 1;
        let next = self.copies.next(0).or(stored);
        match next {
            Some(next) if next <= end => self.copies.read_to(0, next),
            Some(_) => {
                self.copies.reset();
                self.copies.read_to(0, 1);
            }
            None => self.copies.read_to(0, end.saturating_sub(LOOK_BACK).max(1)),
        }
        self.copies.ends_at(0, end, Instant::now());
    }
}

/// The source from which a member reads the messages of the other members.
pub(crate) enum Reading {
    Stream { reader: StreamReader, name: Arc<str> },
    Subject(SubjectReader),
}

impl Reading {
    /// Continues at another place.
    fn restart(&mut self, next: u64) {
        match self {
            Self::Stream { reader, .. } => reader.restart(next),
            Self::Subject(reader) => reader.restart(next),
        }
    }

    /// Returns whether no later message is known.
    fn is_at_end(&self) -> bool {
        match self {
            Self::Stream { reader, .. } => reader.is_at_end(),
            Self::Subject(_) => true,
        }
    }

    /// Waits until messages arrive, or in a stream for its end, and appends the messages.
    async fn read(&mut self, found: &mut VecDeque<Found>) -> Result<(), SinkFault> {
        match self {
            Self::Stream { reader, .. } => reader.read(found).await,
            Self::Subject(reader) => reader.read(found).await,
        }
    }

    /// Waits until messages arrive, and appends them.
    async fn read_as_follower(&mut self, found: &mut VecDeque<Found>) -> Result<(), SinkFault> {
        match self {
            Self::Stream { reader, .. } => reader.read_every(FOLLOWER_READ_INTERVAL, found).await,
            Self::Subject(reader) => reader.read(found).await,
        }
    }
}

/// The state of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takeover {
    /// The end of the stream is not known yet.
    EndUnknown,
    /// The stream has to be read up to this place.
    ReadTo(u64),
}

/// How many messages without an own event may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// As many as can be stored: a further one would displace an older one.
    Limited,
    /// All up to the end of the stream. The oldest ones beyond the limit are discarded and counted.
    Unlimited,
}

/// A member over one connection.
pub(crate) struct Following {
    membership: Membership,
    client: Client,
    events: Arc<Events>,
    reading: Reading,
    /// The largest number of messages of a former leader that may be stored after a takeover.
    in_flight: u64,
    is_leading: bool,
    /// Whether the lease has ended since this member leads: another member may have published since, even if the lease is
    /// held again.
    must_step_down: bool,
    /// The last place at which the stream may accept a message of an earlier leader.
    contested_to: u64,
    takeover: Takeover,
    answer: Option<PlaceAnswer>,
    /// The messages that were read and not matched yet.
    found: VecDeque<Found>,
}

impl Following {
    /// Begins to follow. `in_flight`: the largest number of messages of a former leader that may be stored after a takeover.
    pub(crate) fn new(
        mut membership: Membership,
        mut reading: Reading,
        (client, events): (&Client, &Arc<Events>),
        in_flight: u64,
    ) -> Self {
        membership.copies.restart();
        reading.restart(membership.copies.next(0).unwrap_or(1));
        Self {
            membership,
            client: client.clone(),
            events: Arc::clone(events),
            reading,
            in_flight,
            is_leading: false,
            must_step_down: false,
            contested_to: 0,
            takeover: Takeover::EndUnknown,
            answer: None,
            found: VecDeque::new(),
        }
    }

    pub(crate) fn into_membership(self) -> Membership {
        self.membership
    }

    /// Returns an event as this leader publishes it, marked if it may be late; `None` for a follower.
    pub(crate) fn with_origin<'a>(&self, event: &Event<'a>) -> Option<Event<'a>> {
        self.is_leading.then(|| self.membership.copies.with_origin(event))
    }

    /// Makes this leader step down, and begins to receive the messages of other members before one of them leads. To be
    /// called when the lease has ended.
    pub(crate) fn lease_ended(&mut self) {
        self.must_step_down = true;
        self.subscribe_now();
    }

    fn subscribe_now(&mut self) {
        if let Reading::Subject(reader) = &mut self.reading {
            reader.subscribe_now();
        }
    }

    pub(crate) const fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Returns whether this member publishes over this connection.
    pub(crate) const fn is_leading(&self) -> bool {
        self.is_leading
    }

    /// Returns whether the stream may still accept messages of an earlier leader. With strict order each of them expects a
    /// place that is at most [`MAX_CHAINED`] after the end of the stream at the takeover.
    pub(crate) fn is_contested(&self) -> bool {
        self.membership.copies.next(0).unwrap_or(1) <= self.contested_to
    }

    /// Returns whether the lease is held, and no call has noticed its end since this member leads.
    pub(crate) fn may_publish(&self) -> bool {
        self.membership.lead.is_held() && !self.must_step_down
    }

    /// Returns the number of events that wait for their messages.
    pub(crate) fn expected(&self) -> usize {
        self.membership.copies.expected()
    }

    /// Returns whether an event has a message. Otherwise a leader publishes it now, and a follower expects a message later.
    pub(crate) fn is_published(&mut self, event: &Event<'_>, subject: &str, id: &str) -> bool {
        let identity = match &self.reading {
            Reading::Stream { .. } => Identity::of(id),
            Reading::Subject(_) => Identity::of(&subject_reader::identity(subject, id)),
        };
        let copies = &mut self.membership.copies;
        if self.is_leading {
            let has_message = copies.has_message(event.sequence, identity);
            if !has_message {
                copies.count_possible_duplicate(event.received_at);
            }
            return has_message;
        }
        copies.expect(event.sequence, identity)
    }

    /// Records that a message of this member was stored. `most_overtaken`: the number of messages before it that may be stored
    /// later; 0 in a chain. `open`: the first event in flight.
    pub(crate) fn stored(&mut self, place: u64, most_overtaken: u64, open: Option<Sequence>) {
        let copies = &mut self.membership.copies;
        if most_overtaken > 0 {
            copies.read_to(0, place.saturating_sub(most_overtaken));
        } else if copies.next(0) == Some(place) {
            // In a chain a place between two own messages has the message of another member, which is read later.
            copies.read_to(0, place + 1);
        }
        let first = copies.first_open();
        copies.settled(open.map_or(first, |open| open.min(first)));
    }

    /// Stops publishing over this connection. To be called only when nothing is in flight.
    pub(crate) fn step_down(&mut self) {
        self.is_leading = false;
        self.must_step_down = false;
        self.reset_takeover();
        self.membership.copies.restart();
        if let Reading::Stream { reader, .. } = &mut self.reading {
            self.found.clear();
            reader.restart(self.membership.copies.next(0).unwrap_or(1));
        }
        self.subscribe_now();
    }

    /// Resets a takeover, because others may publish after the known end of the stream before the lease is held again.
    fn reset_takeover(&mut self) {
        self.takeover = Takeover::EndUnknown;
        self.answer = None;
        if let Reading::Subject(reader) = &mut self.reading {
            reader.reset_end();
        }
    }

    /// Settles events by the messages of other members, until the lease is held. Returns with outcomes, or without them when
    /// the takeover may begin. Reads nothing while the copies are [full](Copies::is_full); a takeover reads all messages.
    pub(crate) async fn follow(&mut self, acks: &mut Vec<Ack>) -> Result<(), SinkFault> {
        if !self.may_publish() {
            self.reset_takeover();
            self.membership.copies.follow();
        }
        if acks.is_empty() {
            // Only now: outcomes are lost if the connection ends before the delivery has taken them.
            let copies = &mut self.membership.copies;
            copies.settled(copies.first_open());
        }
        loop {
            self.settle(acks, Room::Limited);
            if !acks.is_empty() {
                return Ok(());
            }
            let is_full = self.membership.copies.is_full();
            tokio::select! {
                biased;
                fault = self.events.faulted() => return Err(fault),
                () = self.membership.lead.held() => return Ok(()),
                read = self.reading.read_as_follower(&mut self.found), if !is_full => read?,
            }
        }
    }

    /// Reads the stream to its end and settles the own events that it contains. Returns the place of the end, after which
    /// this member leads; `None` if the lease is not held any more. Cancel-safe.
    pub(crate) async fn take_over(&mut self, acks: &mut Vec<Ack>) -> Result<Option<u64>, SinkFault> {
        loop {
            if !self.may_publish() {
                self.step_down();
                return Ok(None);
            }
            if std::mem::take(&mut self.is_leading) {
                // Another member has published after this one took over.
                self.step_down();
            }
            self.settle(acks, Room::Unlimited);
            let Takeover::ReadTo(end) = self.takeover else {
                let end = match &mut self.reading {
                    Reading::Stream { .. } => self.find_place(None).await?.unwrap_or_default(),
                    Reading::Subject(reader) => reader.read_to_end(&mut self.found).await?,
                };
                self.takeover = Takeover::ReadTo(end);
                continue;
            };
            let next = self.membership.copies.next(0).unwrap_or(1);
            if next > end {
                return Ok(Some(self.lead(end)));
            }
            if self.reading.is_at_end() || self.answer.is_some() {
                // The last messages may be deleted, or the server of the consumer lags behind.
                let first = self.find_place(Some(next)).await?;
                if first.is_none_or(|first| first > end) {
                    self.membership.copies.read_to(0, end + 1);
                    continue;
                }
            }
            tokio::select! {
                biased;
                fault = self.events.faulted() => return Err(fault),
                read = self.reading.read(&mut self.found) => read?,
            }
        }
    }

    /// Makes this member the leader after the end of the stream at this place, and returns the place.
    fn lead(&mut self, end: u64) -> u64 {
        self.takeover = Takeover::EndUnknown;
        self.is_leading = true;
        self.contested_to = end + MAX_CHAINED as u64;
        if let Reading::Subject(reader) = &mut self.reading {
            reader.unsubscribe();
        }
        self.membership.copies.restart();
        self.membership.copies.lead(self.in_flight);
        end
    }

    /// Matches the messages that were read with the own events.
    fn settle(&mut self, acks: &mut Vec<Ack>, room: Room) {
        let copies = &mut self.membership.copies;
        while room == Room::Unlimited || !copies.is_full() {
            let Some(Found { place, id }) = self.found.pop_front() else {
                return;
            };
            let Some(id) = id else {
                copies.read_to(0, place + 1);
                continue;
            };
            let position = MessagePosition {
                partition: 0,
                offset: place,
            };
            if let Some(sequence) = copies.read(position, Identity::of(&id)) {
                acks.push(Ack {
                    sequence,
                    outcome: Outcome::Duplicate,
                });
            }
        }
    }

    /// Returns the place of the first message at or after `from`; without `from`, the place of the last message of the stream.
    async fn find_place(&mut self, from: Option<u64>) -> Result<Option<u64>, SinkFault> {
        let answer = self.answer.get_or_insert_with(|| {
            let (client, events) = (self.client.clone(), Arc::clone(&self.events));
            let stream = match &self.reading {
                Reading::Stream { name, .. } => Arc::clone(name),
                Reading::Subject(_) => Arc::default(),
            };
            Box::pin(async move {
                let api = Api {
                    client: &client,
                    events: &events,
                };
                match from {
                    Some(from) => first_from(&api, &stream, from).await,
                    None => api.last_place(&stream).await.map(Some),
                }
            })
        });
        let answered = answer.as_mut().await;
        self.answer = None;
        answered
    }
}

/// Returns the place of the first message at or after `from`; `None` if there is no such message.
async fn first_from(api: &Api<'_>, stream: &str, from: u64) -> Result<Option<u64>, SinkFault> {
    #[derive(Deserialize)]
    struct Answer {
        message: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        seq: u64,
    }
    let request = json!({ "seq": from, "next_by_subj": ">" });
    let answer = api
        .request::<Answer>(&format!("STREAM.MSG.GET.{stream}"), &request)
        .await?;
    match answer {
        Ok(found) => Ok(Some(found.message.seq)),
        Err(error) if error.err_code == error::NO_MESSAGE => Ok(None),
        Err(error) => Err(error::fault(&error, stream)),
    }
}

#[cfg(test)]
mod tests;
