//! The NATS sink against a real nats-server: who we are, what streams are like, what is stored and in which order when
//! servers are killed, frozen, purged and written to by others.
//!
//! What has cost others events, and where it is held to here:
//! | trap | test |
//! |---|---|
//! | core publishing returns before anything is sent, and a lost connection takes what waited | `core_mode::what_the_server_did_not_take_is_sent_again` |
//! | an answer is an error, or reports no responder (503) | `streams::a_full_stream_lets_events_wait`, `streams::a_deleted_stream_lets_events_wait`, `strict::replicas::elections_cost_no_event_and_no_majority_blocks` |
//! | draining a client loses acknowledgements | `all_sinks::outages`, stopped in the middle of the feed |
//! | a lost acknowledgement leaves something behind, or holds up what comes after it | `lost_answers`, all three |
//! | a bare id of two sources swallows the second | `strict::two_sources_with_the_same_ids_are_both_stored`, `all_sinks::complete` |
//! | a client that comes back by itself sends on behind a hole | `strict::kills_stops_and_freezes_leave_no_trace`, also on an old server |
//! | the duplicate window has passed | `strict::an_outage_longer_than_the_window_stores_nothing_twice`, `all_sinks::crash` |
//! | a foreign message with an id, without one, a purge | `strict::messages_of_others_get_between_and_change_nothing`, `strict::a_purge_under_load_takes_what_was_there_and_no_more` |
//! | more acknowledgements wait than the client keeps | `max_in_flight` is held below in `sink-nats`'s `check` |
//! | a refused permission shows in a callback only | `security::a_refused_permission_names_the_subject_and_loses_nothing`, `core_mode::a_refused_subject_is_no_delivery` |
//! | credentials are read once | `security::a_credentials_file_that_expires_and_is_exchanged`, `security::a_token_file_that_changes` |
//! | a connection breaks while nobody sends | `streams::a_connection_that_breaks_while_idle_is_noticed` |
//! | the limit of a payload counts the headers | `streams::what_is_too_large_is_a_dead_letter` |
//! | a stream that deletes what was not read | `sink-nats`'s `stream::tests::dangers_are_named` |
//! | header names in another case | `lost_answers::many_lost_acknowledgements_cost_a_strict_sink_nothing`, on the wire |

mod connecting;
mod core_mode;
mod destinations;
mod endless;
mod hostile_server;
mod lost_answers;
mod security;
mod streams;
mod strict;
mod support;
