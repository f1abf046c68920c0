//! The declarations that ship with the program.

/// Includes the declarations that `config/feeds` of the repository contains.
macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// The shipped declarations, by name.
        pub const SHIPPED: &[(&str, &str)] = &[$((
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/feeds/", $name, ".toml")),
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
    SHIPPED
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}
