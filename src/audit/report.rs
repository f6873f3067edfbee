//! An audit as text, and as `JUnit` XML for a CI server.

use std::fmt::Write;

use super::{AuditReport, Finding, Verdict};
use crate::recipe::Severity;

const INDENT: &str = "                  ";

/// How a report is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Whether the terminal shows colours.
    pub colours: bool,
}

impl Finding {
    /// What it came to, in one word or two.
    #[must_use]
    pub fn result(&self) -> &'static str {
        match (&self.verdict, self.severity) {
            (Verdict::Pass(_), _) => "pass",
            (Verdict::Fail(_), Severity::Error) => "fail",
            (Verdict::Unknown(_), Severity::Error) => "unknown",
            (Verdict::Fail(_) | Verdict::Unknown(_), _) => "warning",
            (Verdict::NotApplicable(_), _) => "not applicable",
        }
    }
}

impl AuditReport {
    fn count(&self, result: &str) -> usize {
        self.findings.iter().filter(|finding| finding.result() == result).count()
    }

    /// The report for people. `what` is what was looked at, and `against` what it was held against.
    #[must_use]
    pub fn text(&self, what: &str, against: &str, style: Style) -> String {
        let paint = |code: &str, text: &str| {
            if style.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let mut text = format!("{what}: ");
        if !self.system.is_empty() {
            let _ = write!(text, "{}, ", self.system);
        }
        let _ = writeln!(text, "{against}");
        let width = self.findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        for finding in &self.findings {
            let result = finding.result();
            let code = match result {
                "pass" => "32",
                "fail" | "unknown" => "31;1",
                "warning" => "33",
                _ => "2",
            };
            let result = paint(code, &format!("{result:<14}"));
            let seen = finding.verdict.seen();
            let _ = writeln!(text, "  {result}  {:<width$}  {seen}", finding.name);
            if let Some(advice) = &finding.advice {
                let _ = writeln!(text, "{INDENT}→ {advice}");
            }
            for (number, line) in finding.steps.iter().flat_map(|steps| steps.lines()).enumerate() {
                let mark = if number == 0 { "→" } else { " " };
                let _ = writeln!(text, "{INDENT}{mark} {line}");
            }
        }
        let counts = [
            ("fail", "failed"),
            ("unknown", "unknown"),
            ("warning", "warnings"),
            ("pass", "passed"),
        ];
        let mut counts: Vec<String> =
            counts.iter().map(|(result, word)| format!("{} {word}", self.count(result))).collect();
        counts.push(format!("{} not applicable", self.count("not applicable")));
        let _ = writeln!(text, "{}", counts.join(", "));
        text
    }

    /// A recipe that stands on what was looked at and repairs it: one image `name` with the node
    /// `base`.
    #[must_use]
    pub fn recipe(&self, name: &str, base: &str, profile: &str) -> String {
        let mut text = format!("// Repairs what does not meet the profile `{profile}`.\n");
        let _ = writeln!(text, "image {} {{", super::quoted(name));
        let grown = self.findings.iter().any(|finding| {
            matches!(finding.check.as_str(), "partition-table" | "root-fills")
                && matches!(finding.verdict, Verdict::Fail(_))
        });
        let size =
            if grown && self.disk_size > 0 { grown_size(self.disk_size) } else { String::new() };
        let _ = writeln!(text, "    {base}{size}");
        for finding in &self.findings {
            let Verdict::Fail(seen) = &finding.verdict else { continue };
            let _ = writeln!(text, "\n    // {}: {}", finding.name, one_line(seen));
            if let Some(advice) = &finding.advice {
                let _ = writeln!(text, "    // {}", one_line(advice));
            }
            for line in finding.steps.iter().flat_map(|steps| steps.lines()) {
                let indent = if line.is_empty() { "" } else { "    " };
                let _ = writeln!(text, "{indent}{line}");
            }
        }
        let _ =
            writeln!(text, "\n    profile {}\n    output \"qcow2\"\n}}", super::quoted(profile));
        text
    }

    /// Whether nothing could be found out that had to be.
    fn is_error(&self, finding: &Finding) -> bool {
        finding.result() == "unknown"
            || self.unreadable.is_some() && matches!(finding.verdict, Verdict::Unknown(_))
    }

    /// The report as one test suite of `JUnit` XML. Source: the schema of Jenkins' xUnit plugin.
    #[must_use]
    pub fn junit(&self, what: &str, profile: &str) -> String {
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(
            text,
            "<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\">",
            xml(&format!("{profile}: {what}")),
            self.findings.len(),
            self.count("fail"),
            self.findings.iter().filter(|finding| self.is_error(finding)).count(),
            self.count("not applicable"),
        );
        for finding in &self.findings {
            let seen = xml(finding.verdict.seen());
            let (class, name) = (xml(&format!("kiln.{profile}")), xml(&finding.name));
            let inner = match finding.result() {
                "fail" => {
                    let remedy = finding.steps.as_ref().or(finding.advice.as_ref());
                    let remedy = remedy.map(|text| xml(text)).unwrap_or_default();
                    format!("<failure message=\"{seen}\">{remedy}</failure>")
                }
                _ if self.is_error(finding) => format!("<error message=\"{seen}\"/>"),
                "not applicable" => format!("<skipped message=\"{seen}\"/>"),
                "warning" => format!("<system-err>{seen}</system-err>"),
                _ => format!("<system-out>{seen}</system-out>"),
            };
            let _ = writeln!(
                text,
                "  <testcase classname=\"{class}\" name=\"{name}\">{inner}</testcase>"
            );
        }
        text.push_str("</testsuite>\n");
        text
    }
}

/// The property for a disk that is larger than one of so many bytes, in whole GiB.
fn grown_size(bytes: u64) -> String {
    format!(" size=\"{}G\"", (bytes >> 30) + 1)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text within XML; characters that XML 1.0 cannot hold are replaced.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push('\t'),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c < ' ' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
