//! A headless Chromium, controlled over its DevTools protocol, for tests of a page in a real browser.

mod accessibility;
mod installation;
mod pipe;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

pub use self::accessibility::Node;
pub use self::installation::{SKIP_WORD, chromium, for_test};
use self::pipe::Pipe;
use crate::paths::Scratch;
use crate::poll::wait_for;
use crate::process::Process;

/// Disables network access of the browser itself, and storage outside of its folder. The sandbox is not available to
/// root and not needed for the bridge's own page.
const FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// The time limit for loading a page from this machine.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// A running Chromium with one page, which is killed when dropped.
#[derive(Debug)]
pub struct Browser {
    process: Process,
    pipe: Pipe,
    session: String,
}

/// The properties of a display.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// The width in CSS pixels.
    pub width: u32,
    /// The height in CSS pixels.
    pub height: u32,
    /// Whether the dark colour scheme is preferred.
    pub dark: bool,
}

impl Browser {
    /// Starts Chromium with an empty profile in `dir` and opens an empty page.
    ///
    /// # Errors
    /// Returns an error if Chromium does not answer.
    pub fn start(chromium: &Path, dir: &Scratch) -> Result<Self> {
        let (mut pipe, [commands, answers]) = Pipe::open(dir)?;
        // Chromium uses the file descriptors 3 and 4 for the protocol.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$@\" 3<\"$COMMANDS\" 4>\"$ANSWERS\"", "sh"])
            .arg(chromium)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", dir.join("profile").display()))
            .env("COMMANDS", commands)
            .env("ANSWERS", answers)
            .env("HOME", dir.path());
        let process = Process::spawn("chromium", &mut command, &dir.join("chromium.log"))?;
        let target = pipe
            .call(None, "Target.createTarget", json!({ "url": "about:blank" }))
            .with_context(|| process.log_tail())?;
        let attached = pipe.call(
            None,
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        )?;
        let session = attached["sessionId"]
            .as_str()
            .context("the page has no session")?;
        let mut browser = Self {
            process,
            pipe,
            session: session.to_owned(),
        };
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(browser)
    }

    /// Applies the properties of a display to the page.
    ///
    /// # Errors
    /// Returns an error if Chromium refuses the command.
    pub fn show_on(&mut self, screen: Screen) -> Result<()> {
        let Screen { width, height, dark } = screen;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics)?;
        let scheme = if dark { "dark" } else { "light" };
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] }))?;
        Ok(())
    }

    /// Opens a URL and waits until the page is loaded.
    ///
    /// # Errors
    /// Returns an error if the page cannot be loaded.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let answer = self.call("Page.navigate", json!({ "url": url }))?;
        let error = &answer["errorText"];
        ensure!(error.is_null(), "cannot open {url}: {error}");
        let is_loaded = format!(
            "location.href === {} && document.readyState === 'complete'",
            json!(url)
        );
        wait_for(url, LOAD_TIMEOUT, || {
            // The evaluation fails while the browser replaces the current page.
            let loaded = self.evaluate(&is_loaded).ok();
            Ok((loaded == Some(json!(true))).then_some(()))
        })
    }

    /// Evaluates a JavaScript expression in the page.
    ///
    /// # Errors
    /// Returns an error if the expression throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", parameters)?;
        let thrown = &answer["exceptionDetails"];
        ensure!(thrown.is_null(), "{expression}: {thrown}");
        Ok(answer["result"]["value"].take())
    }

    /// Waits until a JavaScript expression has a truthy value.
    ///
    /// # Errors
    /// Returns an error if the expression has no truthy value within `timeout`; the error contains the text of the page.
    pub fn wait(&mut self, what: &str, timeout: Duration, expression: &str) -> Result<Value> {
        let found = wait_for(what, timeout, || {
            let value = self.evaluate(expression)?;
            let falsy = [json!(false), Value::Null, json!(0), json!("")];
            Ok((!falsy.contains(&value)).then_some(value))
        });
        found.with_context(|| match self.text() {
            Ok(text) => format!("the page shows: {text}"),
            Err(error) => format!("cannot read the page: {error:#}"),
        })
    }

    /// Returns the text of the page.
    ///
    /// # Errors
    /// Returns an error if the page cannot be evaluated.
    pub fn text(&mut self) -> Result<String> {
        let text = self.evaluate("document.body.innerText")?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Presses and releases a key, such as `Tab`.
    ///
    /// # Errors
    /// Returns an error if Chromium refuses the command.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            _ => 0,
        };
        for kind in ["rawKeyDown", "char", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            match (key, kind) {
                ("Enter", "char") => event["text"] = json!("\r"),
                (_, "char") => continue,
                _ => {}
            }
            self.call("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }

    /// Takes a PNG screenshot of the whole page.
    ///
    /// # Errors
    /// Returns an error if Chromium refuses the command.
    pub fn picture(&mut self) -> Result<Vec<u8>> {
        let answer = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true }))?;
        let text = answer["data"].as_str().context("the screenshot has no data")?;
        data_encoding::BASE64
            .decode(text.as_bytes())
            .context("the screenshot is not base64")
    }

    /// Returns the accessibility tree of the page, in reading order.
    ///
    /// # Errors
    /// Returns an error if Chromium refuses the command.
    pub fn accessibility(&mut self) -> Result<Vec<Node>> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}))?;
        accessibility::nodes(&tree)
    }

    /// Returns the URLs that the page has requested so far.
    pub fn requests(&self) -> Vec<String> {
        let sent = self.events("Network.requestWillBeSent");
        sent.filter_map(|event| event["request"]["url"].as_str().map(str::to_owned))
            .collect()
    }

    /// Returns the exceptions and console errors so far, which include violations of the page's security policy.
    pub fn errors(&self) -> Vec<String> {
        let thrown = self.events("Runtime.exceptionThrown").map(Value::to_string);
        let logged = self
            .events("Log.entryAdded")
            .filter(|event| event["entry"]["level"] == "error")
            .map(Value::to_string);
        thrown.chain(logged).collect()
    }

    fn events(&self, method: &str) -> impl Iterator<Item = &Value> {
        let events = self.pipe.events().iter();
        events
            .filter(move |event| event["method"] == method)
            .map(|event| &event["params"])
    }

    fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        let session = self.session.clone();
        self.pipe
            .call(Some(&session), method, parameters)
            .with_context(|| self.process.log_tail())
    }
}
