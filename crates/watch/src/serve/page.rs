//! The page, made here as it is now: it says everything without a script, and the script only makes it again.

use std::fmt::Write as _;

use model::{Finding, Layer, Presence, Seen, Verdict};

use super::chain::{Chain, State, trouble, word};
use super::keep::{History, PLOTS};
use super::picture::{Card, Picture};
use super::plot::{SPAN, plot};
use super::text::cut;
use super::whose::{command, holder, owner};

pub const STYLE: &str = include_str!("page/style.css");
pub const SCRIPT: &str = include_str!("page/page.js");
pub const ICON: &str = include_str!("page/icon.svg");
const HEAD: &str = include_str!("page/head.html");
const FOOT: &str = include_str!("page/foot.html");

/// For text and for attributes in double quotes. All names here are other people's: what would turn the text's direction or
/// controls a terminal is shown as a hole.
fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in cut(text, 300).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// As an element's id: what is no letter or digit becomes a dash.
fn id(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// Before the first look is over.
pub fn waiting(whole: bool) -> String {
    let main = "<main id=\"main\"><p class=\"note\">The first look at the cards is not over.</p></main>";
    if whole { whole_page("thruway", main) } else { main.to_owned() }
}

fn whole_page(title: &str, main: &str) -> String {
    let head = HEAD.replace("{title}", &esc(title)).replace("{version}", env!("CARGO_PKG_VERSION"));
    head + main + &FOOT.replace("{version}", env!("CARGO_PKG_VERSION"))
}

/// The page, or with `whole` false what of it changes. `looked`: the doctor has looked once.
pub fn write(picture: &Picture<'_>, history: &History, looked: bool, whole: bool) -> String {
    let mut out = String::with_capacity(16 << 10);
    out.push_str("<main id=\"main\">");
    top(&mut out, picture, looked);
    way(&mut out, picture, looked);
    cards(&mut out, picture, history);
    findings(&mut out, picture.chain, looked);
    out.push_str("</main>");
    let machine = if picture.chain.machine.is_empty() { "this machine" } else { &picture.chain.machine };
    if whole { whole_page(&format!("{machine} · thruway"), &out) } else { out }
}

/// A verdict in a few words, and its tone.
fn verdict(chain: &Chain, looked: bool) -> (&'static str, String) {
    let first = |state: State| chain.floors.iter().find(|floor| floor.state == state).map(|floor| floor.layer.name());
    if !looked {
        return ("unknown", "the doctor is looking".into());
    }
    if let Some(layer) = first(State::Broken) {
        return ("broken", format!("broken at the {layer} floor"));
    }
    match chain.floors.iter().flat_map(|floor| &floor.findings).filter(|f| word(&f.verdict) == Some("warn")).count() {
        0 if first(State::Unknown).is_some() => ("unknown", "not everything could be looked at".into()),
        0 => ("well", "all well".into()),
        1 => ("warned", "1 warning".into()),
        many => ("warned", format!("{many} warnings")),
    }
}

fn top(out: &mut String, picture: &Picture<'_>, looked: bool) {
    let chain = picture.chain;
    let (tone, says) = verdict(chain, looked);
    let machine = if chain.machine.is_empty() { "This machine" } else { &chain.machine };
    let _ = write!(out, "<header class=\"top\" id=\"top\"><h1>{}</h1>", esc(machine));
    let _ = write!(out, "<p class=\"badge {tone}\" role=\"status\" id=\"verdict\">{}{}</p>", mark(tone), esc(&says));
    if picture.sample.simulated {
        out.push_str("<p class=\"badge simulated\">simulated</p>");
    }
    out.push_str("<p class=\"facts\">");
    match &picture.sample.driver {
        Seen::Is(version) => _ = write!(out, "NVIDIA driver {}", esc(version)),
        Seen::Absent => out.push_str("no NVIDIA driver runs here"),
        Seen::Unreadable(why) => _ = write!(out, "the driver could not be asked: {}", esc(&why.to_string())),
    }
    let _ = write!(
        out,
        " · seen <time id=\"time\" data-time=\"{:.3}\">{}</time> UTC</p>",
        picture.time,
        clock(picture.time)
    );
    if !picture.up && picture.sample.driver.is_there() {
        out.push_str("<p class=\"note bad\" role=\"alert\" id=\"stale\">The driver does not answer: these are the last values.</p>");
    }
    if picture.sample.blind {
        out.push_str("<p class=\"note\">This runs inside a container or another PID namespace: whose processes these are cannot be told here.</p>");
    }
    out.push_str("</header>");
}

/// Hours, minutes, seconds of the day.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time since the epoch")]
fn clock(time: f64) -> String {
    let day = (time.max(0.0) as u64) % 86_400;
    format!("{:02}:{:02}:{:02}", day / 3600, day / 60 % 60, day % 60)
}

/// A state's sign: its form says it as well as its colour.
fn mark(tone: &str) -> &'static str {
    match tone {
        "well" => {
            "<svg class=\"mark\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"11\"/><path d=\"M7 12.5l3.4 3.5L17 8.5\"/></svg>"
        }
        "warned" => {
            "<svg class=\"mark\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"11\"/><path d=\"M12 6.5v7M12 17v.4\"/></svg>"
        }
        "broken" => {
            "<svg class=\"mark\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"11\"/><path d=\"M8 8l8 8M16 8l-8 8\"/></svg>"
        }
        "unknown" => {
            "<svg class=\"mark\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"11\"/><path d=\"M9 9.5a3 3 0 1 1 4.2 2.7c-.8.4-1.2 1-1.2 1.8M12 17.2v.3\"/></svg>"
        }
        _ => {
            "<svg class=\"mark\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"10\"/></svg>"
        }
    }
}

fn tone(state: State) -> &'static str {
    match state {
        State::NotHere => "absent",
        State::Well => "well",
        State::Warned => "warned",
        State::Broken => "broken",
        State::Unknown => "unknown",
    }
}

fn title(layer: Layer) -> &'static str {
    match layer {
        Layer::Host => "Host",
        Layer::Vm => "VM",
        Layer::Guest => "Guest",
        Layer::Container => "Container",
        Layer::Cluster => "Cluster",
        Layer::App => "App",
    }
}

/// The way as a picture: a line that carries as far as the first broken floor.
fn way(out: &mut String, picture: &Picture<'_>, looked: bool) {
    out.push_str("<section aria-labelledby=\"way-title\" id=\"way\"><h2 id=\"way-title\" tabindex=\"-1\">The way</h2>");
    if !looked {
        out.push_str(
            "<p class=\"note\">The doctor walks the way for the first time; this takes some seconds.</p></section>",
        );
        return;
    }
    let count = picture.cards.len() + picture.sample.away.len();
    let slot = if count == 0 { "absent" } else { "well" };
    let cards = match count {
        0 => "no card".to_owned(),
        1 => "1 card".to_owned(),
        many => format!("{many} cards"),
    };
    let carried = |on: bool| if on { "carries" } else { "lost" };
    let mut on = count > 0;
    out.push_str("<ol class=\"way\">");
    let _ = write!(out, "<li class=\"floor {slot} {}\">{}<h3>Slot</h3><p>{cards}</p></li>", carried(on), mark(slot));
    for floor in &picture.chain.floors {
        let tone = tone(floor.state);
        on &= floor.state != State::Broken;
        let (says, state) = match &floor.presence {
            Presence::Here(says) => (says.clone(), state_words(floor.state)),
            Presence::NotHere(why) => (format!("not on this machine: {why}"), ""),
            Presence::Unknown(why) => (format!("could not look: {why}"), ""),
        };
        let _ = write!(out, "<li class=\"floor {tone} {}\">{}<h3>{}", carried(on), mark(tone), title(floor.layer));
        if !state.is_empty() {
            let _ = write!(out, " <small>{state}</small>");
        }
        let _ = write!(out, "</h3><p>{}</p>", esc(&says));
        for finding in floor.findings.iter().filter(|finding| trouble(&finding.verdict).is_some()).take(3) {
            let name = finding.about.id.0;
            let _ = write!(out, "<a href=\"#f-{}\">{}</a>", id(name), esc(name));
        }
        out.push_str("</li>");
    }
    out.push_str("</ol></section>");
}

fn state_words(state: State) -> &'static str {
    match state {
        State::NotHere => "",
        State::Well => "well",
        State::Warned => "warned",
        State::Broken => "broken",
        State::Unknown => "not all seen",
    }
}

fn cards(out: &mut String, picture: &Picture<'_>, history: &History) {
    out.push_str(
        "<section aria-labelledby=\"cards-title\" id=\"cards\"><h2 id=\"cards-title\" tabindex=\"-1\">Cards</h2>",
    );
    if picture.cards.is_empty() && picture.sample.away.is_empty() {
        out.push_str("<p class=\"note\">No card was found.</p>");
    }
    for card in &picture.cards {
        self::card(out, card, picture.chain, history, picture.cards.len() > 2);
    }
    for away in &picture.sample.away {
        let (kind, names) = holder(&away.holder);
        let bdf = away.bdf.to_string();
        let _ = write!(
            out,
            "<article class=\"card away\" id=\"c-{}\" aria-label=\"{} at {bdf}\">",
            id(&bdf),
            esc(&away.name)
        );
        let _ = write!(out, "<div class=\"who\"><h3>{}</h3><p class=\"place\">{bdf}</p>", esc(&away.name));
        let driver = away.driver.get().map_or_else(|| "no driver has it".into(), |driver| format!("{driver} has it"));
        let (chip, says) = match kind {
            "vm" => ("vm", format!("VM {names}")),
            "nobody" => ("nobody", "nobody uses it".into()),
            _ if names.is_empty() => (kind, kind.to_owned()),
            _ => (kind, names),
        };
        let _ = write!(out, "<ul class=\"owners\"><li class=\"chip {}\">{}</li></ul>", id(chip), esc(&says));
        promise(out, picture.chain.promised(away.bdf));
        let _ =
            write!(out, "</div><p class=\"note\">{}: what it does is seen where it is.</p></article>", esc(&driver));
    }
    out.push_str("</section>");
}

fn promise(out: &mut String, to: Option<&str>) {
    if let Some(to) = to {
        let _ = write!(out, "<p class=\"promise\">promised to {}</p>", esc(to));
    }
}

#[allow(clippy::cast_precision_loss, reason = "shown to three digits")]
fn bytes(count: u64) -> String {
    let mib = count as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// `many`: there are so many cards that their processes are shown when they are asked for.
fn card(out: &mut String, card: &Card<'_>, chain: &Chain, history: &History, many: bool) {
    let g = &card.now.gpu;
    let name = g.name.get().map_or("A card that does not tell its name", String::as_str);
    let key = card.key();
    let _ =
        write!(out, "<article class=\"card\" id=\"c-{}\" aria-label=\"GPU {}: {}\">", id(&key), card.index, esc(name));
    let _ = write!(out, "<div class=\"who\"><h3>{}</h3>", esc(name));
    let _ = write!(
        out,
        "<p class=\"place\">GPU {} · {}<br><span class=\"uuid\">{}</span></p>",
        card.index,
        esc(&card.bdf),
        esc(&card.uuid)
    );
    out.push_str("<ul class=\"owners\" aria-label=\"Who uses it\">");
    let mut told: Vec<(&str, &str, &str)> = Vec::new();
    for share in &card.shares {
        let one = (share.kind, share.owner.as_str(), share.app.as_str());
        if !told.contains(&one) {
            told.push(one);
        }
    }
    const SHOWN: usize = 5;
    for (kind, owner, app) in told.iter().take(SHOWN) {
        let _ = write!(out, "<li class=\"chip {kind}\">{}", esc(owner));
        if !app.is_empty() && app != owner {
            let _ = write!(out, " <b>{}</b>", esc(app));
        }
        out.push_str("</li>");
    }
    match (told.len(), &card.now.processes) {
        (0, Seen::Unreadable(why)) => {
            _ = write!(out, "<li class=\"chip\">could not be seen: {}</li>", esc(&why.to_string()))
        }
        (0, _) => out.push_str("<li class=\"chip nobody\">nobody uses it</li>"),
        (many, _) if many > SHOWN => _ = write!(out, "<li class=\"chip\">and {} more</li>", many - SHOWN),
        _ => {}
    }
    out.push_str("</ul>");
    promise(out, card.now.bdf.and_then(|bdf| chain.promised(bdf)));
    out.push_str("</div><div class=\"plots\">");
    let percent = |seen: &Seen<u32>| seen.get().map(|value| format!("{value} %"));
    let memory = match (g.memory_used.get(), g.memory_total.get()) {
        (Some(used), Some(all)) => Some(format!("{} <small>of {}</small>", bytes(*used), bytes(*all))),
        _ => None,
    };
    let power = g.power_draw.get().map(|draw| match g.power_limit.get() {
        Some(limit) => format!("{} W <small>of {} W</small>", draw / 1000, limit / 1000),
        None => format!("{} W", draw / 1000),
    });
    let span = history.span().clamp(SPAN.0, SPAN.1);
    let limit = g.power_limit.get().map_or(0.0, |limit| f64::from(*limit) / 1000.0);
    let hot = g.heat.get().and_then(|heat| heat.slowdown.get()).map_or(100.0, |slow| f64::from(*slow));
    let values = [
        ("Compute", percent(&g.utilization_gpu), 100.0),
        ("Memory", memory, 100.0),
        ("Encoder", percent(&g.utilization_encoder), 100.0),
        ("Decoder", percent(&g.utilization_decoder), 100.0),
        ("Power", power, limit),
        ("Temperature", g.temperature.get().map(|degrees| format!("{degrees} °C")), hot),
    ];
    for (n, (label, value, top)) in values.into_iter().enumerate() {
        plot(
            out,
            label,
            PLOTS.get(n).copied().unwrap_or_default(),
            value.as_deref(),
            &history.column(&key, n, span),
            span,
            top,
        );
    }
    out.push_str("</div>");
    let count = card.now.processes.get().map_or(0, Vec::len);
    if many && count > 0 {
        let words = if count == 1 { "process" } else { "processes" };
        let _ = write!(out, "<details id=\"d-{}\"><summary>{count} {words}</summary>", id(&key));
        processes(out, card);
        out.push_str("</details>");
    } else {
        processes(out, card);
    }
    out.push_str("</article>");
}

/// The busiest ones; all of them are in the data.
fn processes(out: &mut String, card: &Card<'_>) {
    let list = card.now.processes.get().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return;
    }
    const SHOWN: usize = 20;
    let mut list: Vec<_> = list.iter().collect();
    list.sort_by_key(|process| std::cmp::Reverse(process.process.memory.get().copied()));
    out.push_str("<div class=\"table\" role=\"region\" tabindex=\"0\" aria-label=\"Processes on this card\"><table><thead><tr><th scope=\"col\">Process</th>\
                  <th scope=\"col\">Runs in</th><th scope=\"col\">App</th><th scope=\"col\" class=\"n\">Memory</th><th scope=\"col\" class=\"n\">Compute</th>\
                  <th scope=\"col\" class=\"n\">Encoder</th><th scope=\"col\" class=\"n\">Decoder</th></tr></thead><tbody>");
    for one in list.iter().take(SHOWN) {
        let whose = owner(one);
        let percent = |seen: &Seen<u32>| seen.get().map_or("–".to_owned(), |value| format!("{value} %"));
        let memory = one.process.memory.get().map_or("–".to_owned(), |memory| bytes(*memory));
        let _ = write!(out, "<tr><th scope=\"row\">{} <small>{}</small></th>", esc(&command(one)), one.process.pid);
        let _ = write!(out, "<td><span class=\"chip {}\">{}</span>", whose.kind, esc(&whose.owner));
        if whose.kind == "pod" && !whose.container.is_empty() {
            let _ = write!(out, " <small>{}</small>", esc(&whose.container));
        }
        let _ = write!(out, "</td><td>{}</td><td class=\"n\">{memory}</td>", esc(&whose.app));
        for seen in [&one.process.sm, &one.process.encoder, &one.process.decoder] {
            let _ = write!(out, "<td class=\"n\">{}</td>", percent(seen));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    if list.len() > SHOWN {
        let _ = write!(
            out,
            "<p class=\"note\">and {} more: <a href=\"/api/v1/now\">all of them</a></p>",
            list.len() - SHOWN
        );
    }
}

fn findings(out: &mut String, chain: &Chain, looked: bool) {
    out.push_str("<section aria-labelledby=\"findings-title\" id=\"findings\"><h2 id=\"findings-title\" tabindex=\"-1\">Findings</h2>");
    let bad = |state: &'static str| chain.findings().filter(move |finding| word(&finding.verdict) == Some(state));
    let (mut any, mut unseen) = (false, Vec::new());
    for finding in bad("fail").chain(bad("warn")) {
        any = true;
        self::finding(out, finding);
    }
    for finding in bad("unknown") {
        if let Verdict::Unknown { reason, what } = &finding.verdict {
            unseen.push((finding.about.id.0, format!("{what}: {reason}")));
        }
    }
    if !any && looked {
        out.push_str("<p class=\"note\">Nothing is wrong as far as could be seen.</p>");
    }
    if !unseen.is_empty() {
        let _ = write!(
            out,
            "<details id=\"unseen\"><summary>{} Could not be looked at <small>{}</small></summary><ul class=\"unseen\">",
            mark("unknown"),
            unseen.len()
        );
        for (id, why) in unseen {
            let _ = write!(out, "<li><code>{}</code> {}</li>", esc(id), esc(&why));
        }
        out.push_str("</ul></details>");
    }
    out.push_str("</section>");
}

fn finding(out: &mut String, finding: &Finding) {
    let Some(trouble) = trouble(&finding.verdict) else { return };
    let (tone, open) = if matches!(finding.verdict, Verdict::Fail(_)) { ("broken", " open") } else { ("warned", "") };
    let name = finding.about.id.0;
    let _ = write!(
        out,
        "<details class=\"finding {tone}\" id=\"f-{0}\"{open}><summary>{1} {2} <code>{3}</code></summary>",
        id(name),
        mark(tone),
        esc(&trouble.says),
        esc(name)
    );
    if !trouble.evidence.is_empty() {
        out.push_str("<dl class=\"seen\">");
        for evidence in trouble.evidence.iter().take(12) {
            let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", esc(&evidence.source.to_string()), esc(&evidence.value));
        }
        out.push_str("</dl>");
    }
    for (n, fix) in trouble.fixes.iter().enumerate() {
        let _ = write!(out, "<div class=\"fix\"><p><b>Fix</b> {}</p>", esc(&fix.does));
        if !fix.paste.is_empty() {
            let paste = id(name) + "-" + &n.to_string();
            let _ = write!(
                out,
                "<div class=\"paste\"><pre id=\"p-{paste}\" tabindex=\"0\">{}</pre>",
                esc_lines(&fix.paste)
            );
            let _ = write!(
                out,
                "<button type=\"button\" hidden data-copy=\"p-{paste}\" aria-label=\"Copy: {}\">Copy</button></div>",
                esc(&fix.does)
            );
        }
        for cost in &fix.costs {
            let _ = write!(out, "<p class=\"cost\"><b>Cost</b> {}</p>", esc(cost));
        }
        if !fix.undo.is_empty() {
            let _ = write!(out, "<p class=\"cost\"><b>Undo</b> {}</p>", esc(&fix.undo));
        }
        out.push_str("</div>");
    }
    let _ = write!(out, "<p class=\"why\">{}</p></details>", quoted(finding.about.why));
}

fn esc_lines(lines: &[String]) -> String {
    lines.iter().map(|line| esc_long(line)).collect::<Vec<_>>().join("\n")
}

/// Our own paragraphs are long.
fn esc_long(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let piece = cut(rest, 256);
        out.push_str(&esc(piece));
        rest = rest.get(piece.len()..).unwrap_or_default();
    }
    out
}

/// What stands between backquotes is what people see or type.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for (n, part) in text.split('`').enumerate() {
        match n % 2 {
            0 => out.push_str(&esc_long(part)),
            _ => _ = write!(out, "<code>{}</code>", esc_long(part)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        let evil = "<script>\"'&\u{202e}\u{1b}[0m";
        assert_eq!(esc(evil), "&lt;script&gt;&quot;&#39;&amp;\u{fffd} [0m");
        assert_eq!(esc(&"x".repeat(999)).len(), 300);
        assert_eq!(id("GPU-1 <b>"), "GPU-1--b-");
        assert_eq!(esc_long(&"é<".repeat(400)), "é&lt;".repeat(400));
    }
}
