//! Finds the command lines in the documents, and in the comments of the configuration files.

use std::fs;
use std::path::PathBuf;

use neurobridge_tests::paths::workspace_root;

/// The marker before a block whose commands are not run. The reason follows the marker.
const MARKER: &str = "<!-- not run: ";

/// A command line in a document.
#[derive(Debug)]
pub(crate) struct Command {
    /// The file and the line number.
    pub(crate) place: String,
    /// The command as a person would type it, without its comment and with continuation lines joined.
    pub(crate) text: String,
    /// The reason why the command is not run, if the document states one.
    pub(crate) not_run: Option<String>,
}

/// Returns the paths of all documents.
pub(crate) fn documents() -> Vec<PathBuf> {
    let root = workspace_root();
    let mut documents: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"]
        .map(|name| root.join(name))
        .into();
    let folder = fs::read_dir(root.join("docs")).unwrap();
    documents.extend(
        folder
            .map(|entry| entry.unwrap().path())
            .filter(|path| has_extension(path, &["md"])),
    );
    documents
}

/// Returns the files that may contain commands in comments.
fn commented() -> Vec<PathBuf> {
    fn below(folder: PathBuf, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(path, found);
            } else if has_extension(&path, &["toml", "yml", "yaml", "service"]) {
                found.push(path);
            }
        }
    }
    let root = workspace_root();
    let mut found = vec![root.join("docker-compose.yml"), root.join("Dockerfile")];
    below(root.join("config"), &mut found);
    found.sort();
    found
}

fn has_extension(path: &std::path::Path, kinds: &[&str]) -> bool {
    path.extension()
        .is_some_and(|found| kinds.iter().any(|kind| found == *kind))
}

fn place(path: &std::path::Path, line: usize) -> String {
    let path = path.strip_prefix(workspace_root()).unwrap_or(path);
    format!("{}:{}", path.display(), line + 1)
}

/// Returns the commands in all `sh` blocks of the documents.
pub(crate) fn in_documents() -> Vec<Command> {
    documents()
        .iter()
        .flat_map(|path| in_blocks(path, &fs::read_to_string(path).unwrap()))
        .collect()
}

fn in_blocks(path: &std::path::Path, text: &str) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut marker = None;
    let mut block: Option<Option<String>> = None;
    let mut begun: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let Some(not_run) = &block else {
            if let Some(reason) = line.strip_prefix(MARKER) {
                marker = Some(reason.trim_end_matches("-->").trim().to_owned());
            } else if line.trim_start().starts_with("```sh") {
                block = Some(marker.take());
            } else if !line.trim().is_empty() {
                marker = None;
            }
            continue;
        };
        let line = line.trim();
        if line.starts_with("```") {
            block = None;
            continue;
        }
        let (first, so_far) = begun.take().unwrap_or((number, String::new()));
        let line = without_comment(line);
        if let Some(line) = line.strip_suffix('\\') {
            begun = Some((first, so_far + line.trim_end() + " "));
        } else if !(so_far.is_empty() && line.is_empty()) {
            commands.push(Command {
                place: place(path, first),
                text: so_far + line,
                not_run: not_run.clone(),
            });
        }
    }
    commands
}

/// Returns the line without a comment, which starts with two spaces and a `#`.
fn without_comment(line: &str) -> &str {
    let line = if line.starts_with('#') { "" } else { line };
    line.split_once("  #")
        .map_or(line, |(command, _)| command)
        .trim_end()
}

/// Returns the commands in comments: lines with an indentation of three spaces that do not begin with an address.
pub(crate) fn in_comments() -> Vec<Command> {
    let mut commands = Vec::new();
    for path in commented() {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let Some(text) = line.strip_prefix("#   ").filter(|text| !text.starts_with(' ')) else {
                continue;
            };
            let is_address = |word: &str| word.starts_with("http://") || word.starts_with("127.0.0.1:");
            if !text.split_whitespace().next().is_none_or(is_address) {
                commands.push(Command {
                    place: place(&path, number),
                    text: text.to_owned(),
                    not_run: None,
                });
            }
        }
    }
    commands
}

/// Returns the commands in the prose of the documents: texts in backticks that begin with the name of the program.
pub(crate) fn in_text() -> Vec<Command> {
    let mut commands = Vec::new();
    for path in documents() {
        let mut is_block = false;
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            is_block ^= line.trim_start().starts_with("```");
            let spans = line.split('`').skip(1).step_by(2).filter(|_| !is_block);
            for span in spans.filter(|span| span.starts_with("neurobridge ")) {
                commands.push(Command {
                    place: place(&path, number),
                    text: span.to_owned(),
                    not_run: None,
                });
            }
        }
    }
    commands
}

#[test]
fn blocks_yield_commands_without_comments() {
    let text = "a\n<!-- not run: no engine -->\n```sh\ndocker up\n```\n```sh\nA=1 neurobridge run \\\n  -c x  # and so on\n# only words\n\nb\n```\n\
                ```toml\nnot = \"this\"\n```\n";
    let found: Vec<_> = in_blocks(&workspace_root().join("x.md"), text)
        .into_iter()
        .map(|command| (command.place, command.text, command.not_run))
        .collect();
    let command = |place: &str, text: &str, not_run: Option<&str>| {
        (place.to_owned(), text.to_owned(), not_run.map(str::to_owned))
    };
    assert_eq!(
        found,
        [
            command("x.md:4", "docker up", Some("no engine")),
            command("x.md:7", "A=1 neurobridge run -c x", None),
            command("x.md:11", "b", None),
        ]
    );
}
