//! `thruway doctor`: the chain as a picture, the first broken link first.

use gpu::Card;
use machine::Kind;
use model::{Finding, Layer, Presence, Reason, Trouble, Verdict};
use serde::Serialize;

use crate::paint::{Page, Tone, paint, plural};
use crate::way::Way;
use watch::serve::chain::State;

/// The version of the report's JSON form.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
pub struct Report {
    schema: u32,
    thruway: &'static str,
    machine: String,
    kind: Kind,
    simulated: bool,
    verdict: Overall,
    /// The id of the first broken link on the way.
    first_broken: Option<String>,
    cards: Vec<CardLine>,
    floors: Vec<FloorReport>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Overall {
    Well,
    /// Works, and something is harmful, risky or due to break.
    Warned,
    Broken,
    /// Nothing wrong was seen, yet not everything could be looked at.
    Unknown,
}

#[derive(Serialize)]
struct CardLine {
    bdf: String,
    id: String,
    name: String,
    holder: gpu::Holder,
}

#[derive(Serialize)]
struct FloorReport {
    layer: Layer,
    #[serde(flatten)]
    presence: Presence,
    state: State,
    findings: Vec<Finding>,
}

impl Report {
    pub fn new(way: &Way, machine: String, kind: Kind, only: Option<Layer>) -> Self {
        let layers = Layer::ALL.into_iter().filter(|layer| only.is_none_or(|only| only == *layer));
        let floors: Vec<FloorReport> = layers.map(|layer| floor(way, layer)).collect();
        let cards = way.gpus.cards.iter().map(card).collect();
        let verdict = overall(way, &floors);
        let first_broken =
            troubles(&floors, |v| matches!(v, Verdict::Fail(_))).next().map(|(f, _)| f.about.id.to_string());
        Report {
            schema: SCHEMA,
            thruway: env!("CARGO_PKG_VERSION"),
            machine,
            kind,
            simulated: kind == Kind::Simulated,
            verdict,
            first_broken,
            cards,
            floors,
        }
    }

    /// Each floor: whether it is here, how it is, what was found.
    pub fn floors(self) -> impl Iterator<Item = (Layer, Presence, State, Vec<Finding>)> {
        self.floors.into_iter().map(|floor| (floor.layer, floor.presence, floor.state, floor.findings))
    }

    /// 0 all well, 1 findings, 2 could not look.
    pub fn status(&self) -> u8 {
        match self.verdict {
            Overall::Well => 0,
            Overall::Warned | Overall::Broken => 1,
            Overall::Unknown => 2,
        }
    }

    pub fn page(&self, verbose: bool) -> String {
        let mut page = Page::new();
        self.head(&mut page);
        self.picture(&mut page);
        let fails: Vec<_> = troubles(&self.floors, |v| matches!(v, Verdict::Fail(_))).collect();
        let warns: Vec<_> = troubles(&self.floors, |v| matches!(v, Verdict::Warn(_))).collect();
        for (finding, trouble) in &fails {
            trouble_lines(&mut page, "✗", Tone::Bad, finding, trouble);
        }
        for (finding, trouble) in &warns {
            trouble_lines(&mut page, "!", Tone::Warn, finding, trouble);
        }
        self.unknowns(&mut page);
        if verbose {
            self.passes(&mut page);
        }
        self.foot(&mut page, fails.len(), warns.len());
        page.text()
    }

    fn head(&self, page: &mut Page) {
        let simulated = if self.simulated { "  (simulated)" } else { "" };
        page.line(format!(
            "{}{}",
            paint(Tone::Strong, &format!("The way on {}", self.machine)),
            paint(Tone::Warn, simulated)
        ));
        page.gap();
        match self.cards.as_slice() {
            [] => page.line(format!("  {}", paint(Tone::Faint, "no display or 3D controller on the PCI bus"))),
            cards => {
                for card in cards {
                    let name = format!("{}  {}", paint(Tone::Strong, &card.bdf), paint(Tone::Plain, &card.name));
                    page.line(format!(
                        "  {name}  {}",
                        paint(Tone::Faint, &format!("[{}]  {}", card.id, crate::gpus::holder(&card.holder)))
                    ));
                }
            }
        }
        page.gap();
    }

    /// The chain: solid where a floor carries the card on, dotted after the first broken link and past floors that are
    /// not on this machine.
    fn picture(&self, page: &mut Page) {
        let mut names = String::from("  ");
        let mut marks = String::from("  ");
        let mut broken = false;
        let last = self.floors.len().saturating_sub(1);
        for (n, floor) in self.floors.iter().enumerate() {
            let (mark, tone) = match floor.state {
                State::NotHere => ("○", Tone::Faint),
                State::Well => ("●", Tone::Good),
                State::Warned => ("!", Tone::Warn),
                State::Broken => ("✗", Tone::Bad),
                State::Unknown => ("?", Tone::Warn),
            };
            broken |= floor.state == State::Broken;
            marks.push_str(&paint(tone, mark));
            let carries = !broken && matches!(floor.state, State::Well | State::Warned);
            let (link, link_tone) = if carries { ("━", Tone::Good) } else { ("┄", Tone::Faint) };
            if n < last {
                marks.push_str(&paint(link_tone, &link.repeat(13)));
            }
            let name = floor.layer.name();
            let name_tone = if floor.state == State::NotHere { Tone::Faint } else { Tone::Strong };
            names.push_str(&paint(name_tone, name));
            names.push_str(&" ".repeat(14usize.saturating_sub(name.len())));
        }
        page.line(names.trim_end());
        page.line(marks);
        page.gap();
        for floor in &self.floors {
            let (says, tone) = match &floor.presence {
                Presence::Here(says) => (says.clone(), Tone::Plain),
                Presence::NotHere(why) => (format!("not on this machine: {why}"), Tone::Faint),
                Presence::Unknown(why) => (format!("could not look: {why}"), Tone::Warn),
            };
            page.hang(2, floor.layer.name(), 11, tone, &says);
        }
        page.gap();
    }

    /// What could not be looked at, and which checks wait for it; one cause is said once.
    fn unknowns(&self, page: &mut Page) {
        let mut causes: Vec<(String, Vec<&str>)> = Vec::new();
        for finding in self.floors.iter().flat_map(|floor| &floor.findings) {
            if let Verdict::Unknown { reason, what } = &finding.verdict {
                let cause = format!("{what}: {reason}");
                match causes.iter_mut().find(|(known, _)| *known == cause) {
                    Some((_, ids)) => ids.push(finding.about.id.0),
                    None => causes.push((cause, vec![finding.about.id.0])),
                }
            }
        }
        if causes.is_empty() {
            return;
        }
        page.gap();
        page.line(paint(Tone::Strong, "Could not look (this is not \"well\")"));
        for (cause, ids) in causes {
            page.hang(0, "?", 2, Tone::Warn, &cause);
            page.hang(4, "so", 6, Tone::Plain, &format!("unknown: {}", ids.join(", ")));
        }
    }

    /// True where some look failed for want of rights: root would see it.
    fn denied(&self) -> bool {
        let findings = self.floors.iter().flat_map(|floor| &floor.findings);
        let mut reasons = findings.filter_map(|finding| match &finding.verdict {
            Verdict::Unknown { reason, .. } => Some(reason),
            _ => None,
        });
        reasons.any(|reason| *reason == Reason::PermissionDenied)
    }

    fn passes(&self, page: &mut Page) {
        page.gap();
        page.line(paint(Tone::Strong, "Checked and well"));
        for finding in self.floors.iter().flat_map(|floor| &floor.findings) {
            if finding.verdict == Verdict::Pass {
                page.hang(2, finding.about.id.0, 36, Tone::Plain, finding.about.title);
            }
        }
        page.gap();
    }

    fn foot(&self, page: &mut Page, fails: usize, warns: usize) {
        page.gap();
        let (says, tone) = match self.verdict {
            Overall::Well => ("All well as far as this machine goes.".to_owned(), Tone::Good),
            Overall::Unknown => {
                let hint = match (self.denied(), self.kind) {
                    (true, _) => ": try as root",
                    (_, Kind::Captured) => ": this capture holds only a part of the machine",
                    _ => "",
                };
                (format!("Nothing wrong was seen, but not everything could be looked at{hint}."), Tone::Warn)
            }
            Overall::Broken if fails == 0 => {
                ("There is no GPU on this machine, so the way does not begin here.".to_owned(), Tone::Bad)
            }
            Overall::Broken | Overall::Warned => {
                let broken = plural(fails, "broken link", "broken links");
                let warned = plural(warns, "warning", "warnings");
                let says = match (fails, warns) {
                    (0, _) => warned,
                    (_, 0) => broken,
                    _ => format!("{broken}, {warned}"),
                };
                (
                    format!("{says}. `thruway plan` shows what thruway would change; `thruway explain ID` says more."),
                    if fails > 0 { Tone::Bad } else { Tone::Warn },
                )
            }
        };
        page.line(paint(tone, &says));
    }
}

fn card(card: &Card) -> CardLine {
    CardLine {
        bdf: card.identity.bdf.to_string(),
        id: card.identity.id.to_string(),
        name: format!("{} {}", crate::gpus::vendor(&card.vendor_name), card.device_name),
        holder: card.holder.clone(),
    }
}

fn floor(way: &Way, layer: Layer) -> FloorReport {
    let presence = way.presence(layer);
    let findings = way.findings(layer);
    let any = |test: fn(&Verdict) -> bool| findings.iter().any(|f| test(&f.verdict));
    let state = if any(|v| matches!(v, Verdict::Fail(_))) {
        State::Broken
    } else if any(|v| matches!(v, Verdict::Warn(_))) {
        State::Warned
    } else if any(|v| matches!(v, Verdict::Unknown { .. })) {
        State::Unknown
    } else {
        match presence {
            Presence::Here(_) => State::Well,
            Presence::NotHere(_) => State::NotHere,
            Presence::Unknown(_) => State::Unknown,
        }
    };
    FloorReport { layer, presence, state, findings }
}

fn overall(way: &Way, floors: &[FloorReport]) -> Overall {
    let any = |state| floors.iter().any(|floor| floor.state == state);
    if any(State::Broken) {
        Overall::Broken
    } else if any(State::Warned) {
        Overall::Warned
    } else if way.gpus.looked.unreadable().is_some() || any(State::Unknown) {
        Overall::Unknown
    } else if way.gpus.cards.is_empty() {
        Overall::Broken
    } else {
        Overall::Well
    }
}

fn troubles(floors: &[FloorReport], test: fn(&Verdict) -> bool) -> impl Iterator<Item = (&Finding, &Trouble)> {
    floors.iter().flat_map(|floor| &floor.findings).filter(move |f| test(&f.verdict)).filter_map(|finding| {
        match &finding.verdict {
            Verdict::Fail(trouble) | Verdict::Warn(trouble) => Some((finding, trouble)),
            _ => None,
        }
    })
}

pub fn trouble_lines(page: &mut Page, mark: &str, tone: Tone, finding: &Finding, trouble: &Trouble) {
    const COLUMN: usize = 6;
    page.gap();
    page.hang(0, mark, 2, tone, &trouble.says);
    page.whole(2, "", 0, Tone::Faint, finding.about.id.0);
    // A list of like things (links, nodes, functions) is shown by its first ones; --json has them all.
    const SHOWN: usize = 6;
    for evidence in trouble.evidence.iter().take(SHOWN) {
        page.hang(4, "seen", COLUMN, Tone::Plain, &format!("{}: {}", evidence.source, evidence.value));
    }
    if trouble.evidence.len() > SHOWN {
        page.hang(4, "", COLUMN, Tone::Faint, &format!("and {} more", trouble.evidence.len() - SHOWN));
    }
    for fix in &trouble.fixes {
        page.hang(4, "fix", COLUMN, Tone::Plain, &fix.does);
        for paste in &fix.paste {
            page.whole(4 + COLUMN + 2, "", 0, Tone::Code, paste);
        }
        for cost in &fix.costs {
            page.hang(4, "cost", COLUMN, Tone::Plain, cost);
        }
        if !fix.undo.is_empty() {
            page.hang(4, "undo", COLUMN, Tone::Plain, &fix.undo);
        }
    }
}
