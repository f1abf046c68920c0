//! Help texts that follow the flags of a command: examples, exit codes, explanations.

pub(super) const AFTER_HELP: &str = "\
Without -c the configuration is the file that NEUROBRIDGE_CONFIG names, then ./neurobridge.toml,
then /etc/neurobridge/neurobridge.toml, else the environment alone. Environment variables
override the file: NEUROBRIDGE__SINKS__KAFKA__TOPIC=faces sets topic in [sinks.kafka].

SIGINT, SIGTERM and SIGHUP each deliver the pending events and stop, within drain_timeout; a
second signal stops at once. SIGHUP does not reload the configuration: neurobridge reload does.

Exit codes: 0 success, 64 wrong usage, 69 a service is unavailable, 74 disk error,
75 temporary failure, try again, 77 token refused, 78 errors in the configuration.";

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  neurobridge run -c /etc/neurobridge/neurobridge.toml
  neurobridge run --watch -c neurobridge.toml
  NEUROBRIDGE__SOURCES__MAIN__TOKEN_FILE=/run/secrets/token neurobridge run

SIGINT, SIGTERM and SIGHUP each deliver the pending events and stop, within drain_timeout; a
second signal stops at once. SIGHUP does not reload the configuration: neurobridge reload does.";

pub(super) const CLUSTER_EXAMPLES: &str = "\
Examples:
  neurobridge cluster
  neurobridge cluster --hand-over";

pub(super) const RELOAD_EXAMPLES: &str = "\
Examples:
  neurobridge check && neurobridge reload
  neurobridge reload -c /etc/neurobridge/neurobridge.toml
  systemctl reload neurobridge

These changes need a restart: data_dir, spool, cluster, http, log, dead_letters, deduplicate,
event.redact, event.pseudonymise, environment variables; any change of a source with token_from;
event, events or resume of a declared feed; a new source with resume; on a member of a cluster
also sources, sinks and filters.

Exit codes: 0 success, 78 configuration error or restart needed (nothing was changed),
69 no bridge runs, 75 the last reload is not complete.";

pub(super) const CHECK_EXAMPLES: &str = "\
Examples:
  neurobridge check -c neurobridge.toml
  neurobridge check --connect
  neurobridge check --event entry.json --sink kafka
  neurobridge tail -n 1 | neurobridge check --event - --sink kafka
  neurobridge check --json | jq .warnings

Exit codes: 0 success, 78 errors in the configuration, 77 a token was refused, 69 a service is
unavailable, 74 a file cannot be written.";

pub(super) const TAIL_EXAMPLES: &str = "\
Examples:
  neurobridge tail -n 10
  neurobridge tail --only result=new --only result=exact
  neurobridge tail --sink kafka
  neurobridge tail --sink kafka --json | jq .head.key
  neurobridge tail | jq .data.result

Exit codes: 0 success, 64 unknown sink, 69 the bridge has ended or does not answer,
77 token refused, 78 errors in the configuration.";

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  neurobridge completions bash > /etc/bash_completion.d/neurobridge
  neurobridge completions zsh > ~/.zfunc/_neurobridge
  neurobridge completions fish > ~/.config/fish/completions/neurobridge.fish";

pub(super) const REPLAY_EXAMPLES: &str = "\
Examples:
  neurobridge spool replay --sink kafka --from 1000 --to 1999
  neurobridge spool replay --sink nats --from 2026-01-31T12:00:00Z
  neurobridge spool replay --sink nats --from 5m
  neurobridge spool replay --sink nats --id 4711";

pub(super) const HEALTHCHECK_EXAMPLES: &str = "\
Examples:
  neurobridge healthcheck
  neurobridge healthcheck --ready --url http://127.0.0.1:9797";

pub(super) const SIMULATE_SHORT_HELP: &str = "\
Examples:
  neurobridge simulate --listen 127.0.0.1:8765 --rate 100
  neurobridge simulate --listen 127.0.0.1:8765 --token secret --fault close=1001,after=500,times=2
  neurobridge simulate --listen 127.0.0.1:8765 --rate 100 --fault cut,every=30s --fault rest-http=503,every=1m

Rules for --fault: neurobridge simulate --help";

pub(super) fn simulate_long_help() -> String {
    let examples = SIMULATE_SHORT_HELP
        .rsplit_once("\n\n")
        .map_or(SIMULATE_SHORT_HELP, |(examples, _)| examples);
    format!(
        "{examples}\n\nRules for --fault:\n{}",
        neurobridge_simulator::GRAMMAR.trim_end()
    )
}

pub(super) const DEAD_LETTERS_EXAMPLES: &str = "\
Examples:
  neurobridge dead-letters ls --sink kafka
  neurobridge dead-letters replay 3f2a09c1 77d0
  neurobridge dead-letters replay --sink kafka";
