//! Compares two configurations: which parts change, and what cannot be changed while the bridge runs.

use std::collections::BTreeSet;

use neurobridge_core::event::FieldPath;
use serde_json::{Map, Value};

use crate::config::{Config, Loaded};

/// The changes from one configuration to another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) sources: Changes,
    pub(crate) sinks: Changes,
    /// Whether `drain_timeout` changes.
    pub(crate) drain_timeout: bool,
    /// Whether the sources locate other fields while they read a frame.
    pub(crate) changes_located_fields: bool,
}

/// The names of the parts that change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) added: Vec<String>,
    pub(crate) changed: Vec<String>,
    pub(crate) removed: Vec<String>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// Compares the parts with these names.
    fn between<'a>(
        old: impl Iterator<Item = &'a String>,
        new: impl Iterator<Item = &'a String>,
        is_changed: impl Fn(&str) -> bool,
    ) -> Self {
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (old.collect(), new.collect());
        let owned = |names: Vec<&&String>| names.into_iter().map(|name| (*name).clone()).collect();
        Self {
            added: owned(new.difference(&old).collect()),
            changed: owned(old.intersection(&new).filter(|name| is_changed(name)).collect()),
            removed: owned(old.difference(&new).collect()),
        }
    }
}

impl Plan {
    /// Returns whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.sinks.is_empty() && !self.drain_timeout
    }
}

/// Returns the changes from `old` to `new`. `located` are the fields that the running sources locate while they read a frame.
///
/// # Errors
/// Returns the keys that cannot be changed while the bridge runs.
pub(crate) fn plan(old: &Loaded, new: &Loaded, located: &[FieldPath]) -> Result<Plan, Vec<String>> {
    let (before, after) = (old.settings(), new.settings());
    let mut restart_keys = Vec::new();
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        match key.as_str() {
            "sources" | "sinks" | "drain_timeout" => {}
            "event" => {
                // During the replacement of a source the same event arrives twice. With another redaction, the second copy would
                // count as another event and be stored, too.
                let filter = |key: &String| key == "event.filter" || key.starts_with("event.filter.");
                let mut changed = Vec::new();
                differences(before.get(key), after.get(key), key, &mut changed);
                restart_keys.extend(changed.into_iter().filter(|key| !filter(key)));
            }
            _ => differences(before.get(key), after.get(key), key, &mut restart_keys),
        }
    }
    for (name, source) in &new.config.sources {
        let resumes = source.feed.as_deref().is_some_and(|feed| feed.resume.is_some());
        restart_keys.extend(restart_keys_of_source(name, resumes, &old.config, before, after));
    }
    if !restart_keys.is_empty() {
        return Err(restart_keys);
    }
    let changes_located_fields = !new
        .config
        .named_fields()
        .iter()
        .all(|field| located.contains(field));
    let rules_change = changes_located_fields
        || at(before, &["event", "filter"]) != at(after, &["event", "filter"])
        || redacts(&old.config) != redacts(&new.config);
    let differs = |section: &str, name: &str| at(before, &[section, name]) != at(after, &[section, name]);
    let sources = Changes::between(old.config.sources.keys(), new.config.sources.keys(), |name| {
        rules_change || differs("sources", name)
    });
    // Two instances of the source would renew the same token, and delete the tokens of each other.
    let creates_tokens = |config: &Config, name: &str| {
        let source = config.sources.get(name);
        source.is_some_and(|source| source.token_from.is_some())
    };
    for name in &sources.changed {
        if creates_tokens(&old.config, name) || creates_tokens(&new.config, name) {
            restart_keys.push(format!("sources.{name} (a source with token_from)"));
        }
    }
    if !restart_keys.is_empty() {
        return Err(restart_keys);
    }
    Ok(Plan {
        sources,
        sinks: Changes::between(old.config.sinks.keys(), new.config.sinks.keys(), |name| {
            differs("sinks", name)
        }),
        drain_timeout: old.config.drain_timeout != new.config.drain_timeout,
        changes_located_fields,
    })
}

/// Returns the changed keys of a source that cannot be changed while the bridge runs.
fn restart_keys_of_source(
    name: &str,
    resumes: bool,
    old: &Config,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> Vec<String> {
    let mut restart_keys = Vec::new();
    if !old.sources.contains_key(name) {
        // The spool stores the resume values only of the sources that it was opened with.
        if resumes {
            restart_keys.push(format!("sources.{name}.feed.resume"));
        }
        return restart_keys;
    }
    // These keys decide how a message becomes an event: during the replacement, the copies of an event would be two events.
    for key in ["event", "events", "resume"] {
        let path = ["sources", name, "feed", key];
        differences(
            at(before, &path),
            at(after, &path),
            &path.join("."),
            &mut restart_keys,
        );
    }
    restart_keys
}

/// Returns whether values are removed from any event, so that dead letters contain no frames.
fn redacts(config: &Config) -> bool {
    config.event.redacts() || config.sinks.values().any(|sink| sink.common.redacts())
}

/// Returns the value at a path.
fn at<'v>(table: &'v Map<String, Value>, path: &[&str]) -> Option<&'v Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    rest.iter().try_fold(value, |value, key| value.get(*key))
}

/// Collects the keys below `key` whose values differ.
fn differences(old: Option<&Value>, new: Option<&Value>, key: &str, found: &mut Vec<String>) {
    let empty = Map::new();
    let table = |value: Option<&Value>| match value {
        None => None,
        Some(value) => value.as_object().cloned(),
    };
    if old == new {
        return;
    }
    match (table(old), table(new)) {
        (None, None) => found.push(key.to_owned()),
        (old, new) => {
            let (old, new) = (old.unwrap_or_else(|| empty.clone()), new.unwrap_or(empty));
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for below in keys {
                differences(old.get(below), new.get(below), &format!("{key}.{below}"), found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"
        [sources.a]
        url = "ws://127.0.0.1:1/"
        token = "one"
        [sources.b]
        url = "ws://127.0.0.1:2/"
        token = "two"
        [sinks.file]
        type = "file"
        [sinks.other]
        type = "file"
        path = "other.jsonl"
    "#;

    fn loaded(text: &str) -> Loaded {
        crate::config::load_text(text).unwrap_or_else(|report| panic!("{report}"))
    }

    fn planned(new: &str) -> Result<Plan, Vec<String>> {
        let old = loaded(BASE);
        plan(&old, &loaded(new), &old.config.named_fields())
    }

    #[test]
    fn equal_configuration_changes_nothing() {
        let commented = format!("# a comment\n{BASE}");
        assert!(planned(&commented).unwrap().is_empty());
    }

    #[test]
    fn changed_token_changes_only_its_source() {
        // A secret is compared too, although it is never shown.
        let plan = planned(&BASE.replace("\"one\"", "\"three\"")).unwrap();
        assert_eq!(plan.sources.changed, ["a"]);
        assert!(plan.sinks.is_empty() && plan.sources.added.is_empty() && plan.sources.removed.is_empty());
    }

    #[test]
    fn changed_path_changes_only_its_sink() {
        let plan = planned(&BASE.replace("other.jsonl", "another.jsonl")).unwrap();
        assert_eq!(plan.sinks.changed, ["other"]);
        assert!(plan.sources.is_empty());
    }

    #[test]
    fn renamed_source_is_removed_and_added() {
        let plan = planned(&BASE.replace("sources.b", "sources.c")).unwrap();
        assert_eq!(
            (&plan.sources.added[..], &plan.sources.removed[..]),
            (&["c".to_owned()][..], &["b".to_owned()][..])
        );
    }

    #[test]
    fn renamed_sink_is_removed_and_added() {
        let plan = planned(&BASE.replace("sinks.other", "sinks.more")).unwrap();
        assert_eq!(
            (&plan.sinks.added[..], &plan.sinks.removed[..]),
            (&["more".to_owned()][..], &["other".to_owned()][..])
        );
    }

    #[test]
    fn changed_filter_changes_its_sink() {
        let filtered = format!("{BASE}\n[sinks.other.filter]\nresult = [\"new\"]\n");
        let plan = planned(&filtered).unwrap();
        assert_eq!(plan.sinks.changed, ["other"]);
    }

    #[test]
    fn filter_on_a_field_not_located_changes_all_sources() {
        let filtered = format!("{BASE}\n[sinks.other.filter]\n\"a.b\" = [\"new\"]\n");
        let plan = planned(&filtered).unwrap();
        assert!(plan.changes_located_fields);
        assert_eq!(plan.sources.changed, ["a", "b"]);
    }

    #[test]
    fn event_filter_changes_all_sources() {
        let plan = planned(&format!("{BASE}\n[event.filter]\nresult = [\"new\"]")).unwrap();
        assert_eq!(plan.sources.changed, ["a", "b"]);
    }

    #[test]
    fn drain_timeout_changes_without_the_sources() {
        let plan = planned(&format!("drain_timeout = \"20s\"\n{BASE}")).unwrap();
        assert!(plan.drain_timeout && plan.sources.is_empty());
    }

    #[test]
    fn settings_of_the_whole_bridge_need_a_restart() {
        for (text, key) in [
            ("data_dir = \"elsewhere\"", "data_dir"),
            ("[http]\nlisten = \"127.0.0.1:1\"", "http.listen"),
            ("[spool]\ntype = \"disk\"", "spool.type"),
            ("[event]\nredact = [\"x\"]", "event.redact"),
            ("[deduplicate]\nmax_events = 10", "deduplicate.max_events"),
            ("[log]\nlevel = \"debug\"", "log.level"),
        ] {
            assert_eq!(planned(&format!("{text}\n{BASE}")).unwrap_err(), [key]);
        }
    }

    /// Returns a configuration whose source `m` creates its tokens and has more settings.
    fn with_token_from(settings: &str) -> String {
        format!(
            "[sources.m]\n{settings}[sources.m.token_from]\ncredential_file = \"credential\"\n[sinks.file]\ntype = \"file\"\n"
        )
    }

    #[test]
    fn changed_source_with_token_from_needs_a_restart() {
        let old = loaded(&with_token_from(""));
        let changed = loaded(&with_token_from("connections = 2\n"));
        let keys = plan(&old, &changed, &old.config.named_fields()).unwrap_err();
        assert!(
            keys[0].contains("sources.m") && keys[0].contains("token_from"),
            "{keys:?}"
        );
    }

    #[test]
    fn removed_source_with_token_from_needs_no_restart() {
        let old = loaded(&with_token_from(""));
        let removed = loaded(&with_token_from("").replace("sources.m", "sources.n"));
        let plan = plan(&old, &removed, &old.config.named_fields()).unwrap();
        assert_eq!(plan.sources.removed, ["m"]);
    }

    /// Returns a configuration with a declared feed whose events have the id in this field.
    fn with_declared_feed(id: &str) -> String {
        format!(
            "[sources.d]\n[sources.d.feed]\nurl = \"ws://127.0.0.1:3/\"\nrules = [{{ is = \"event\" }}]\n\
             event = {{ id = \"{id}\" }}\n"
        )
    }

    #[test]
    fn other_id_field_of_a_feed_needs_a_restart() {
        let old = loaded(&with_declared_feed("n"));
        let new = loaded(&with_declared_feed("m"));
        assert_eq!(plan(&old, &new, &[]).unwrap_err(), ["sources.d.feed.event.id"]);
    }

    #[test]
    fn other_url_of_a_feed_changes_its_source() {
        let old = loaded(&with_declared_feed("n"));
        let moved = loaded(&with_declared_feed("n").replace("127.0.0.1:3", "127.0.0.1:4"));
        let plan = plan(&old, &moved, &old.config.named_fields()).unwrap();
        assert_eq!(plan.sources.changed, ["d"]);
    }
}
