//! A task's end, and what its log says of a failure.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Client, Error};

/// The longest that a change to a VM's configuration is waited for: a disk on slow storage may have to be made.
const LIMIT: Duration = Duration::from_secs(300);

impl Client {
    /// GET /nodes/{node}/tasks/{upid}/status until it has stopped, less and less often. A failure is explained from its
    /// log.
    pub fn wait(&self, upid: &str) -> Result<(), Error> {
        let bad = || Error::Answer { what: "the task".into(), says: format!("{upid:?} is no task's id") };
        let node = upid.strip_prefix("UPID:").and_then(|rest| rest.split(':').next()).ok_or_else(bad)?;
        if !upid.chars().all(|c| c.is_ascii_alphanumeric() || ":@!-._".contains(c)) || node.is_empty() {
            return Err(bad());
        }
        let path = format!("/nodes/{node}/tasks/{}", upid.replace(':', "%3A").replace('@', "%40").replace('!', "%21"));
        let (start, mut pause) = (Instant::now(), Duration::from_millis(250));
        let status = loop {
            let now = self.call("GET", &format!("{path}/status"), &[])?;
            let text = |key: &str| now.get(key).and_then(Value::as_str).map(str::to_owned);
            if text("status").as_deref() == Some("stopped") {
                break text("exitstatus").unwrap_or_else(|| "it ended, and does not say how".into());
            }
            if start.elapsed() > LIMIT {
                let says = format!("still runs after {} s; it goes on without thruway", LIMIT.as_secs());
                return Err(Error::Task { upid: upid.into(), status: says, explained: String::new() });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(5));
        };
        if status == "OK" || status.starts_with("WARNINGS") {
            return Ok(());
        }
        let lines = self.call("GET", &format!("{path}/log?limit=500"), &[]).unwrap_or_default();
        let lines = lines.as_array().into_iter().flatten().filter_map(|line| line.get("t")?.as_str());
        let log = lines.collect::<Vec<_>>().join("\n");
        Err(Error::Task { upid: upid.into(), status, explained: explained(&log) })
    }
}

/// The known errors of a log, a line each, with the check that confirms it.
fn explained(log: &str) -> String {
    let found = decode::explain(log).unwrap_or_default();
    let lines = found.iter().map(|one| {
        let checks = if one.checks.is_empty() { String::new() } else { format!(" ({})", one.checks.join(", ")) };
        format!("\n  line {}: {}\n  {}{checks}. {}", one.line, one.text.trim(), one.says, one.fix)
    });
    lines.collect()
}
