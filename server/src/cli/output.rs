//! What commands print: results on stdout (for people, or JSON), progress and complaints on stderr.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::{
    cli::failure::Failure,
    client::counter::{Stage, Unit},
};

/// Where results go.
pub struct Output {
    json: bool,
    /// The one JSON value of a command that gives one stands on stdout.
    answered: AtomicBool,
}

impl Output {
    /// For people, or JSON.
    pub fn new(json: bool) -> Output {
        Output { json, answered: AtomicBool::new(false) }
    }

    /// Whether JSON is wanted.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The result of a command: the value as JSON, or what `text` makes of it.
    pub fn value(&self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        self.item(value, text)?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// One of many: the value as JSON, or what `text` makes of it.
    pub fn item(&self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        let shown = if self.json { value.to_string() } else { text(value) };
        self.line(&shown)
    }

    /// One line (or several) on stdout, at once.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::ReaderGone),
            Err(error) => Err(Failure::CouldNot(format!("writing the result: {error}"))),
        }
    }

    /// One line on stderr.
    pub fn note(&self, text: &str) {
        // Nowhere to complain when even this fails.
        _ = writeln!(io::stderr().lock(), "{text}").is_ok();
    }

    /// Says why, on stderr for people and on stdout as JSON unless the result stands there, and gives the exit code.
    pub fn failure(&self, failure: &Failure) -> ExitCode {
        let (text, exit) = match failure {
            Failure::ReaderGone => return failure.code(),
            Failure::NotWell(text) => (text, 1),
            Failure::CouldNot(text) => (text, 3),
        };
        self.note(&format!("reprise: {text}"));
        if self.json && !self.answered.load(Ordering::Relaxed) {
            // Whoever read it may be gone: it is said on stderr too.
            _ = self.line(&json!({"error": text, "exit": exit}).to_string()).is_ok();
        }
        failure.code()
    }

    /// A bar on stderr that appears when the work takes more than two seconds; invisible where stderr is no terminal.
    pub fn progress(&self, what: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        set_style(&bar, COUNT_TEMPLATE);
        bar.set_message(what.to_owned());
        Progress { bar, shown: false, stage: "" }
    }
}

/// A progress bar.
pub struct Progress {
    bar: ProgressBar,
    shown: bool,
    /// The stage that is shown, for commands that have several.
    stage: &'static str,
}

impl Progress {
    /// `done` of `total`.
    pub fn at(&mut self, done: u64, total: u64) {
        if !self.shown && self.bar.elapsed() > SHOWN_AFTER {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Where a command of several stages is; rate and ETA are those of the stage.
    pub fn show(&mut self, stage: Stage) {
        if self.stage != stage.what {
            self.stage = stage.what;
            set_style(&self.bar, if stage.unit == Unit::Bytes { BYTES_TEMPLATE } else { COUNT_TEMPLATE });
            self.bar.set_message(stage.what);
            self.bar.reset_eta();
        }
        self.at(stage.done, stage.total);
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Rows in aligned columns under a heading; the last column is not padded.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let columns = heading.len();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(heading.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// A JSON value as people read it: text without quotes, `-` for nothing.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// Fields of an object as aligned lines `name  value`.
pub fn fields(value: &Value, names: &[&str]) -> String {
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let lines = names.iter().map(|name| format!("{:width$}  {}", name.replace('_', " "), plain(&value[*name])));
    lines.collect::<Vec<_>>().join("\n")
}

const COUNT_TEMPLATE: &str = "{msg:12} {bar:32} {human_pos}/{human_len} {per_sec} ETA {eta}";
const BYTES_TEMPLATE: &str = "{msg:12} {bar:32} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}";
const SHOWN_AFTER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let rows = vec![vec!["a".to_owned(), "long".to_owned()], vec!["bcd".to_owned(), String::new()]];
        assert_eq!(table(&["N", "X"], &rows), "N    X\na    long\nbcd");
    }
}
