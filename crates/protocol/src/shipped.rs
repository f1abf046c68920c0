//! The declarations that ship with the program.

/// Includes the declarations that `config/feeds` of the repository contains.
macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// The shipped declarations, by name.
        pub const SHIPPED: &[(&str, &str)] = &[$((
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/feeds/", $name, ".toml")),
        )),*];

        /// The scripts of the shipped declarations for the simulator, by name.
        const SCRIPTS: &[(&str, &str)] = &[$((
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/feeds/scripts/", $name, ".ndjson")),
        )),*];
    };
}

shipped!(
    "binance",
    "bluesky-jetstream",
    "coinbase-exchange",
    "graphql-transport-ws",
    "okx",
    "polygon",
);

/// Returns the text of a shipped declaration.
pub fn shipped(name: &str) -> Option<&'static str> {
    named(SHIPPED, name)
}

/// Returns the script of a shipped declaration: frames of the feed, and its faults, for the simulator.
pub fn shipped_script(name: &str) -> Option<&'static str> {
    named(SCRIPTS, name)
}

fn named(texts: &'static [(&str, &str)], name: &str) -> Option<&'static str> {
    let mut texts = texts.iter();
    texts.find(|(known, _)| *known == name).map(|(_, text)| *text)
}
