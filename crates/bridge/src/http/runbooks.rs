//! `/runbooks`: the page with `docs/operations.md` of this version. The section of the alerts comes first, because the annotation
//! `runbook_url` of each alert links to a heading of this section.

use std::{fmt::Write, sync::LazyLock};

use axum::response::IntoResponse;
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

use super::page;

/// The template of the page. `{contents}` and `{text}` are replaced.
const TEMPLATE: &str = include_str!("page/runbooks.html");
/// The heading of the section with a runbook for each alert; the last section of the document.
const ALERTS: &str = "\n## Alerts\n";

static PAGE: LazyLock<String> = LazyLock::new(|| render(include_str!("../../../../docs/operations.md")));

pub(super) async fn show() -> impl IntoResponse {
    page::file("text/html", PAGE.as_str()).await
}

/// Renders the document without its title and introduction, the section of the alerts first.
fn render(document: &str) -> String {
    let (before, alerts) = document.split_once(ALERTS).unwrap_or((document, ""));
    let others = before.find("\n## ").map_or("", |start| &before[start..]);
    let (alerts, contents) = section(&format!("{ALERTS}{alerts}"));
    let (others, headings) = section(others);
    let others_in_list = headings.iter().filter(|heading| heading.is_main);
    let mut list = String::new();
    for Heading { anchor, title, .. } in contents.iter().chain(others_in_list) {
        // Writing to a string cannot fail.
        let _ = write!(list, "<li><a href=\"#{anchor}\">{title}</a></li>");
    }
    TEMPLATE
        .replace("{contents}", &list)
        .replace("{text}", &(alerts + &others))
}

/// A heading of the document.
struct Heading {
    is_main: bool,
    anchor: String,
    /// The title in HTML.
    title: String,
}

/// Renders a part of the document. Returns its HTML and its headings.
fn section(text: &str) -> (String, Vec<Heading>) {
    let mut events: Vec<Event<'_>> = Vec::new();
    let mut headings = Vec::new();
    let mut heading = None;
    let mut link_is_kept = false;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Html(text) | Event::InlineHtml(text) => {
                if !text.starts_with("<!--") {
                    events.push(Event::Text(text));
                }
                continue;
            }
            // The bridge serves no files beside the document and no images, so links to them are removed.
            Event::Start(Tag::Link { ref dest_url, .. }) => {
                link_is_kept = dest_url.starts_with('#') || dest_url.starts_with("https://");
                if !link_is_kept {
                    continue;
                }
            }
            Event::End(TagEnd::Link) if !link_is_kept => continue,
            Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => continue,
            Event::Start(Tag::Table(_)) => {
                events.push(Event::Html("<div class=\"scroll\" tabindex=\"0\">".into()));
            }
            Event::End(TagEnd::Table) => {
                events.extend([event, Event::Html("</div>".into())]);
                continue;
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(events.len()),
            Event::End(TagEnd::Heading(level)) => {
                if let Some(start) = heading.take() {
                    let (anchor, title) = set_anchor(&mut events[start..]);
                    headings.push(Heading {
                        is_main: level == HeadingLevel::H2,
                        anchor,
                        title,
                    });
                }
            }
            _ => {}
        }
        events.push(event);
    }
    let mut rendered = String::new();
    html::push_html(&mut rendered, events.into_iter());
    (rendered, headings)
}

/// Sets the anchor of a heading, derived from the title like the anchors of GitHub. Returns the anchor and the title in HTML.
fn set_anchor(heading: &mut [Event<'_>]) -> (String, String) {
    let mut title = String::new();
    for event in &heading[1..] {
        if let Event::Text(text) | Event::Code(text) = event {
            title.push_str(text);
        }
    }
    let anchor: String = title
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
        .collect();
    if let Event::Start(Tag::Heading { id, .. }) = &mut heading[0] {
        *id = Some(anchor.clone().into());
    }
    let mut escaped = String::new();
    html::push_html(&mut escaped, std::iter::once(Event::Text(title.into())));
    (anchor, escaped)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
        let parts = page.split(name).skip(1);
        parts.map(|rest| rest.split('"').next().unwrap()).collect()
    }

    #[test]
    fn anchors_are_unique_and_each_link_leads_to_an_anchor() {
        let document = include_str!("../../../../docs/operations.md");
        let anchors = attributes(&PAGE, " id=\"");
        let unique: BTreeSet<&str> = anchors.iter().copied().collect();
        assert_eq!(unique.len(), anchors.len(), "{anchors:?}");
        let alerts: Vec<&str> = document
            .lines()
            .filter_map(|line| line.strip_prefix("### Neurobridge"))
            .collect();
        assert!(alerts.len() > 10, "{alerts:?}");
        for alert in alerts {
            let anchor = format!("neurobridge{}", alert.to_lowercase());
            assert!(unique.contains(&*anchor), "{anchor} in {anchors:?}");
        }
        let links = attributes(&PAGE, " href=\"#");
        assert!(links.len() > 20, "{links:?}");
        for link in links {
            assert!(unique.contains(link), "{link} in {anchors:?}");
        }
        assert!(PAGE.find("id=\"alerts\"") < PAGE.find("id=\"sizing\""));
    }

    #[test]
    fn html_is_escaped_and_unsafe_or_local_links_are_removed() {
        let page = render(
            "# T\nintro\n\n## A <b>`x`</b>\n<script>alert(1)</script>\n\n<!-- hidden -->\n[m](metrics.md) \
             [j](javascript:alert(2)) [w](https://example.com/?a&b) ![i](i.png)\n\n## Alerts\n### One & two\nfirst\n",
        );
        let body = page.split("<article").nth(1).unwrap();
        assert!(body.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{body}");
        for part in [
            "<script",
            "<b>",
            "hidden",
            "intro",
            "metrics.md",
            "javascript",
            "<img",
        ] {
            assert!(!body.contains(part), "{part}: {body}");
        }
        assert!(
            body.contains("<a href=\"https://example.com/?a&amp;b\">w</a>"),
            "{body}"
        );
        assert!(body.find("first") < body.find("alert(1)"), "{body}");
        assert!(page.contains("<a href=\"#one--two\">One &amp; two</a>"), "{page}");
    }
}
