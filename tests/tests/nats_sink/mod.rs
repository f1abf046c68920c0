//! The NATS sink against a real nats-server: authentication, streams, and the stored events and their order when servers
//! are killed or frozen, when streams are purged, and when other clients publish to the streams.
//!
//! Known causes of lost events in NATS clients, and the tests that cover them:
//! | cause | test |
//! |---|---|
//! | core publishing returns before an event is sent, and waiting events are lost with the connection | `core_mode::events_not_accepted_by_the_server_are_resent` |
//! | an answer is an error, or reports no responder (503) | `streams::events_wait_while_the_stream_is_full`, `streams::events_wait_while_the_stream_is_deleted`, `strict::replicas::elections_and_lost_majority_lose_no_event` |
//! | draining a client loses acknowledgements | `all_sinks::outages`, stopped in the middle of the feed |
//! | a lost acknowledgement leaves an event in flight, or blocks later events | `lost_answers`, all three tests |
//! | two sources use the same id without a prefix, and the second event is dropped | `strict::equal_ids_of_two_sources_are_both_stored`, `all_sinks::complete` |
//! | a client that reconnects by itself continues after a gap in the order | `strict::server_restarts_keep_every_event_once_and_in_order`, also on an old server |
//! | an event is sent again after the end of the duplicate window | `strict::outage_beyond_the_window_stores_no_event_twice`, `all_sinks::crash` |
//! | another client publishes to the stream, with or without an id, or purges the stream | `strict::foreign_messages_lose_no_event`, `strict::purge_under_load_removes_only_earlier_messages` |
//! | more acknowledgements are pending than the client stores | `max_in_flight` is limited below that number in `sink-nats`'s `check` |
//! | a refused permission is reported only in a callback | `security::denied_subject_is_named_and_loses_no_event`, `core_mode::event_on_a_denied_subject_is_not_delivered` |
//! | credentials are read once | `security::replaced_credentials_file_is_used_after_expiry`, `security::changed_token_file_is_read_on_reconnect` |
//! | a connection breaks while no event is published | `streams::broken_idle_connection_is_detected` |
//! | the limit of a payload counts the headers | `streams::oversize_event_becomes_a_dead_letter` |
//! | a stream deletes unread messages | `sink-nats`'s `stream::tests::risky_settings_have_warnings` |
//! | a stream is deleted and created again, without its messages | `recreated`, `recreated_destinations` |
//! | a client changes the case of header names | `lost_answers::lost_acknowledgements_lose_no_event_in_strict_order`, in the bytes sent |

mod connecting;
mod core_mode;
mod destinations;
mod endless;
mod hostile_server;
mod lost_answers;
mod recreated;
mod security;
mod streams;
mod strict;
pub(crate) mod support;
