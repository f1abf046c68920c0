//! `neurobridge man`: the manual page, with all commands on one page so that it can be searched.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::print;
use crate::{
    cli::Cli,
    exit::{Exit, Failure, OrExit},
};

/// The date of the manual page: the last change of the command line.
const DATE: &str = "2026-11-30";

/// The sections that cannot be generated from the command line.
const SECTIONS: &str = r#".SH FILES
.TP
\fB./neurobridge.toml\fR, \fB/etc/neurobridge/neurobridge.toml\fR
The configuration, if neither \fB\-c\fR nor \fBNEUROBRIDGE_CONFIG\fR names another file.
.TP
\fIdata_dir\fR\fB/spool\fR
The spool on disk, with the cursors of the sinks.
.TP
\fIdata_dir\fR\fB/dead\-letters.jsonl\fR
Dead letters of sources, and of sinks without a place of their own; rotated files are beside it.
.TP
\fIdata_dir\fR\fB/dead\-letters\-replayed.jsonl\fR
The list of the dead letters that were replayed.
.TP
\fIdata_dir\fR\fB/control.sock\fR
The socket for the commands \fBtail\fR, \fBreload\fR, \fBbackfill\fR and \fBcluster\fR while the bridge runs.
.TP
\fB/etc/default/neurobridge\fR
Environment variables of the systemd service.
.SH ENVIRONMENT
.TP
\fBNEUROBRIDGE_CONFIG\fR
The configuration file, if \fB\-c\fR is not given.
.TP
\fBNEUROBRIDGE__\fR\fISECTION\fR\fB__\fR\fIKEY\fR
A key of the configuration: \fBNEUROBRIDGE__SINKS__KAFKA__TOPIC=faces\fR sets \fBtopic\fR in \fB[sinks.kafka]\fR. Overrides the file.
.TP
\fBNO_COLOR\fR
If set and not empty, no colours are used.
.TP
\fBHTTPS_PROXY\fR, \fBHTTP_PROXY\fR, \fBALL_PROXY\fR, \fBNO_PROXY\fR
The proxy of sources without the key \fBproxy\fR.
.TP
\fBSHELL\fR
The shell of \fBneurobridge completions\fR without an argument.
.SH EXIT STATUS
"#;

/// The sections after the exit codes.
const END: &str = r#".SH SIGNALS
.TP
\fBSIGINT\fR, \fBSIGTERM\fR, \fBSIGHUP\fR
The first one delivers the remaining events within \fBdrain_timeout\fR and stops; a second one stops at once.
.SH SEE ALSO
The configuration is explained in /usr/share/doc/neurobridge/neurobridge.toml, the operation in
/usr/share/doc/neurobridge/docs/operations.md.
"#;

/// Prints the manual page.
pub(super) fn run() -> Result<Exit, Failure> {
    print(page().or_exit(Exit::Disk)?)?;
    Ok(Exit::Ok)
}

fn page() -> io::Result<String> {
    let mut command = Cli::command();
    command.build();
    let man = Man::new(command.clone()).date(DATE);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let mut page = utf8(text);
    page.push_str(".SH COMMANDS\n");
    push_commands(&command, "neurobridge", &mut page)?;
    page.push_str(SECTIONS);
    for exit in Exit::ALL {
        page.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", exit.code(), exit.meaning()));
    }
    page.push_str(END);
    Ok(tidy(&page))
}

/// Appends a subsection for each command below `parent`, and for the commands below them.
fn push_commands(parent: &Command, path: &str, page: &mut String) -> io::Result<()> {
    for command in parent
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
    {
        let path = format!("{path} {}", command.get_name());
        // Options that all commands have are listed once, in the first section of options.
        let own = command.clone().mut_args(|arg| match arg.is_global_set() {
            true if arg.get_id() != "config" => arg.hide(true),
            _ => arg,
        });
        let man = Man::new(own);
        let mut text = Vec::new();
        man.render_synopsis_section(&mut text)?;
        text.extend_from_slice(b".PP\n");
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        let text = utf8(text);
        // `.ie` and `.el` define the apostrophe in each rendered section, and `.SH` begins a section.
        let is_kept = |line: &&str| {
            ![".ie ", ".el ", ".SH "]
                .iter()
                .any(|start| line.starts_with(start))
        };
        page.push_str(&format!(".SS {path}\n"));
        for line in text.lines().filter(is_kept) {
            page.push_str(line);
            page.push('\n');
        }
        push_commands(command, &path, page)?;
    }
    Ok(())
}

fn utf8(text: Vec<u8>) -> String {
    String::from_utf8_lossy(&text).into_owned()
}

/// Removes line breaks next to empty lines, about which mandoc warns.
fn tidy(page: &str) -> String {
    let lines: Vec<&str> = page.lines().collect();
    let mut tidy = String::with_capacity(page.len());
    for (place, line) in lines.iter().enumerate() {
        let is_space = |place: Option<usize>| place.and_then(|place| lines.get(place)) == Some(&".sp");
        if *line == ".br" && (is_space(place.checked_sub(1)) || is_space(place.checked_add(1))) {
            continue;
        }
        tidy.push_str(line);
        tidy.push('\n');
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_page_has_all_sections_and_names_no_other_page() {
        let page = page().unwrap();
        for section in [
            "COMMANDS",
            "FILES",
            "ENVIRONMENT",
            "\"EXIT STATUS\"",
            "EXIT STATUS",
        ] {
            let section = section.trim_matches('"');
            assert!(page.contains(&format!("\n.SH {section}\n")), "{section}");
        }
        for command in ["run", "check", "spool replay", "completions"] {
            assert!(
                page.contains(&format!("\n.SS neurobridge {command}\n")),
                "{command}"
            );
        }
        for exit in Exit::ALL {
            assert!(page.contains(&format!("\n\\fB{}\\fR\n", exit.code())), "{exit:?}");
        }
        assert!(!page.contains("(1)") && !page.contains("EXTRA"), "{page}");
        // In the first synopsis and in the first options, and not for each command.
        assert_eq!(page.matches("log\\-format").count(), 2, "{page}");
    }
}
