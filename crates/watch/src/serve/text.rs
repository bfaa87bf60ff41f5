//! Metrics as text: Prometheus's form 0.0.4 and OpenMetrics 1.0, of the same families.

use std::fmt::Write as _;

/// Which form is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    Prometheus,
    Open,
}

impl Form {
    /// By a request's Accept header: OpenMetrics where it is named and not refused, as Prometheus itself asks.
    pub fn accepted(accept: &str) -> Form {
        let named = accept.split(',').any(|kind| {
            let mut parts = kind.split(';').map(str::trim);
            parts.next() == Some("application/openmetrics-text") && !parts.any(|part| part == "q=0" || part == "q=0.0")
        });
        if named { Form::Open } else { Form::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Form::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Form::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    Counter,
    /// A constant 1 whose labels are what it says; the name ends in `_info`.
    Info,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Info => "info",
        }
    }
}

/// A family that was offered, whether it has series here or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    pub kind: Kind,
    pub name: &'static str,
    pub help: &'static str,
}

/// The text as it grows.
pub struct Text {
    form: Form,
    out: String,
    most: usize,
    offered: Vec<Offered>,
    dropped: Vec<(&'static str, usize)>,
}

/// A label's value is no longer than this many bytes: names are other people's.
const LABEL: usize = 256;
/// Units that OpenMetrics wants said, where a name ends in one.
const UNITS: &[&str] = &["bytes", "ratio", "watts", "joules", "celsius", "hertz", "seconds"];

impl Text {
    /// `most`: so many series a family at the most; what is over is counted.
    pub fn new(form: Form, most: usize) -> Text {
        Text { form, out: String::with_capacity(16 << 10), most, offered: Vec::new(), dropped: Vec::new() }
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str, fill: impl FnOnce(&mut Series<'_>)) {
        self.family(Kind::Gauge, name, help, fill);
    }

    pub fn counter(&mut self, name: &'static str, help: &'static str, fill: impl FnOnce(&mut Series<'_>)) {
        self.family(Kind::Counter, name, help, fill);
    }

    pub fn info(&mut self, name: &'static str, help: &'static str, fill: impl FnOnce(&mut Series<'_>)) {
        self.family(Kind::Info, name, help, fill);
    }

    /// A family with its series. One without series leaves no word: what is not known is not there.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &'static str, fill: impl FnOnce(&mut Series<'_>)) {
        self.offered.push(Offered { kind, name, help });
        let mut series = Series { text: self, kind, name, help, count: 0 };
        fill(&mut series);
        let over = series.count.saturating_sub(self.most);
        if over > 0 {
            self.dropped.push((name, over));
        }
    }

    /// From here on families are our own and small: what was dropped is told of whole.
    pub fn lift(&mut self) {
        self.most = usize::MAX;
    }

    /// Which families had more series than are shown, and how many more.
    pub fn dropped(&self) -> &[(&'static str, usize)] {
        &self.dropped
    }

    /// Every family in order, also those without series.
    pub fn offered(&self) -> &[Offered] {
        &self.offered
    }

    /// The text so far, without OpenMetrics's last line.
    pub fn into_text(self) -> String {
        self.out
    }

    fn head(&mut self, kind: Kind, name: &str, help: &str) {
        let (family, kind) = match (self.form, kind) {
            (Form::Prometheus, Kind::Info) => (name, "gauge"),
            (Form::Prometheus, kind) => (name, kind.name()),
            // other exporters' names do not keep OpenMetrics's rules
            (Form::Open, Kind::Counter) => name.strip_suffix("_total").map_or((name, "unknown"), |n| (n, "counter")),
            (Form::Open, Kind::Info) => name.strip_suffix("_info").map_or((name, "gauge"), |n| (n, "info")),
            (Form::Open, Kind::Gauge) => (name, "gauge"),
        };
        let _ = writeln!(self.out, "# HELP {family} {}", help.replace('\\', "\\\\").replace('\n', " "));
        let _ = writeln!(self.out, "# TYPE {family} {kind}");
        let unit = UNITS.iter().find(|unit| family.strip_suffix(**unit).is_some_and(|rest| rest.ends_with('_')));
        if let (Form::Open, Some(unit), true) = (self.form, unit, kind != "info") {
            let _ = writeln!(self.out, "# UNIT {family} {unit}");
        }
    }
}

/// The series of one family.
pub struct Series<'t> {
    text: &'t mut Text,
    kind: Kind,
    name: &'static str,
    help: &'static str,
    count: usize,
}

impl Series<'_> {
    /// One series. Labels are in the order given; a value is escaped and cut to a bounded length.
    pub fn put(&mut self, labels: &[(&str, &str)], value: f64) {
        self.count += 1;
        if self.count > self.text.most {
            return;
        }
        if self.count == 1 {
            self.text.head(self.kind, self.name, self.help);
        }
        let out = &mut self.text.out;
        out.push_str(self.name);
        for (n, (name, value)) in labels.iter().enumerate() {
            out.push(if n == 0 { '{' } else { ',' });
            out.push_str(name);
            out.push_str("=\"");
            escape(out, value);
            out.push('"');
        }
        if !labels.is_empty() {
            out.push('}');
        }
        let _ = writeln!(out, " {value}");
    }

    /// One series where there is a value.
    pub fn some(&mut self, labels: &[(&str, &str)], value: Option<f64>) {
        if let Some(value) = value {
            self.put(labels, value);
        }
    }

    /// One of an info family.
    pub fn one(&mut self, labels: &[(&str, &str)]) {
        self.put(labels, 1.0);
    }
}

fn escape(out: &mut String, value: &str) {
    for c in cut(value, LABEL).chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

/// The beginning of a text that is so many bytes at the most.
pub fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out() {
        let mut text = Text::new(Form::Prometheus, 9);
        let evil = format!("a\"}} 1\nevil 2\\ \u{1b}[31m{}", "é".repeat(200));
        text.gauge("thruway_x", "x", |series| series.put(&[("name", &evil)], 0.5));
        let text = text.into_text();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("{name=\"a\\\"} 1\\nevil 2\\\\ \u{fffd}[31mé"), "{text}");
        assert!(text.ends_with("é\"} 0.5\n") && text.len() < 400, "{text}");
    }

    #[test]
    fn what_is_over_is_counted_and_not_shown() {
        let mut text = Text::new(Form::Prometheus, 2);
        text.gauge("thruway_x", "x", |series| (0..5).for_each(|n| series.put(&[("n", &n.to_string())], 1.0)));
        text.gauge("thruway_y", "y", |_| {});
        assert_eq!(text.dropped(), [("thruway_x", 3)]);
        assert_eq!(text.offered().len(), 2);
        let text = text.into_text();
        assert!(text.contains("{n=\"1\"} 1\n") && !text.contains("{n=\"2\"}") && !text.contains("thruway_y"), "{text}");
    }

    #[test]
    fn openmetrics_has_its_own_heads() {
        let mut text = Text::new(Form::Open, 9);
        text.counter("thruway_energy_joules_total", "e", |series| series.put(&[], 1.5));
        text.info("thruway_gpu_info", "g", |series| series.one(&[("gpu", "0")]));
        text.counter("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "r", |series| series.put(&[], 3.0));
        let want = "# HELP thruway_energy_joules e\n# TYPE thruway_energy_joules counter\n# UNIT thruway_energy_joules joules\n\
                    thruway_energy_joules_total 1.5\n# HELP thruway_gpu g\n# TYPE thruway_gpu info\nthruway_gpu_info{gpu=\"0\"} 1\n\
                    # HELP DCGM_FI_DEV_PCIE_REPLAY_COUNTER r\n# TYPE DCGM_FI_DEV_PCIE_REPLAY_COUNTER unknown\n\
                    DCGM_FI_DEV_PCIE_REPLAY_COUNTER 3\n";
        assert_eq!(text.into_text(), want);
    }

    #[test]
    fn the_form_is_what_the_client_accepts() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Form::accepted(prometheus), Form::Open);
        for accept in ["", "*/*", "text/html", "application/openmetrics-text;q=0"] {
            assert_eq!(Form::accepted(accept), Form::Prometheus, "{accept}");
        }
    }
}
