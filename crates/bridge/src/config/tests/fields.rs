//! Tests of the fields of events that a configuration names.

use super::{SOURCE, load};

#[test]
fn fields_named_in_filters_topics_and_keys_are_listed() {
    let loaded = load(&format!(
        "{SOURCE}[event]\nfilter = {{ result = [\"new\"] }}\n\
         [sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"localhost:9092\"\ntopic = \"entries.{{space.id}}\"\n\
         key = \"{{groups.0}}\"\nfilter = {{ \"$.id\" = {{ present = true }}, age = {{ at_least = 18 }} }}\n"
    ));
    let fields = loaded.unwrap().config.named_fields();
    let mut fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["$.id", "age", "groups.0", "result", "space.id"]);
}
