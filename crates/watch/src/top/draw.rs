//! The picture, whatever the size: a line of what this is, the cards, the processes, the cards that are a VM's, the keys.

use std::collections::VecDeque;

use gpu::Holder;
use model::Seen;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::rows::{self, Row, cut, per_cent, told};
use super::table::Columns;
use super::view::{History, View};
use crate::CardNow;

/// What a piece of text is, not how it looks.
#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
    /// A key to press, a table's head.
    Head,
}

struct Paint {
    colour: bool,
    unicode: bool,
}

impl Paint {
    fn style(&self, tone: Tone) -> Style {
        let (colour, modifier) = match tone {
            Tone::Plain => (None, Modifier::empty()),
            Tone::Strong => (None, Modifier::BOLD),
            Tone::Faint => (None, Modifier::DIM),
            Tone::Good => (Some(Color::Green), Modifier::empty()),
            Tone::Warn => (Some(Color::Yellow), Modifier::empty()),
            Tone::Bad => (Some(Color::Red), Modifier::BOLD),
            Tone::Head => (None, Modifier::REVERSED),
        };
        let style = Style::new().add_modifier(modifier);
        match colour.filter(|_| self.colour) {
            Some(colour) => style.fg(colour),
            None => style,
        }
    }

    fn span(&self, tone: Tone, text: impl AsRef<str>) -> Span<'static> {
        let text = rows::tame(text.as_ref());
        // A terminal of another character set shows none of our signs.
        let text = if self.unicode { text } else { text.replace('…', "~").replace(" °C", " C").replace('°', " ") };
        Span::styled(text, self.style(tone))
    }

    /// The newest on the right. What was not told leaves a gap.
    fn plot(&self, values: Option<&VecDeque<Option<u32>>>, columns: usize) -> Span<'static> {
        const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const SIGNS: [char; 9] = [' ', '.', '.', ':', '-', '=', '+', '*', '#'];
        let signs = if self.unicode { BLOCKS } else { SIGNS };
        let values: Vec<Option<u32>> = values.into_iter().flatten().copied().collect();
        let shown = values.get(values.len().saturating_sub(columns)..).unwrap_or_default();
        let sign = |value: &Option<u32>| match value {
            None => ' ',
            // 0 % is something else than nothing told: the lowest block
            Some(value) => signs.get((*value as usize * 7).div_ceil(100) + 1).or(signs.last()).copied().unwrap_or(' '),
        };
        let text: String = shown.iter().map(sign).collect();
        let peak = shown.iter().flatten().max().copied().unwrap_or(0);
        self.span(self.load(peak), format!("{text:>columns$}"))
    }

    fn bar(&self, share: Option<u32>, columns: usize) -> Span<'static> {
        let Some(share) = share else { return Span::raw(" ".repeat(columns)) };
        let full = (share.min(100) as usize * columns).div_ceil(100);
        let (on, off) = if self.unicode { ("█", "░") } else { ("#", ".") };
        self.span(self.load(share), on.repeat(full) + &off.repeat(columns.saturating_sub(full)))
    }

    fn load(&self, per_cent: u32) -> Tone {
        match per_cent {
            0..=59 => Tone::Good,
            60..=89 => Tone::Warn,
            _ => Tone::Bad,
        }
    }
}

/// Lines from the top down; what does not fit any more is left out.
struct Pen<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    next: u16,
}

impl Pen<'_> {
    fn line(&mut self, spans: Vec<Span<'static>>) {
        if self.left() > 0 {
            self.buffer.set_line(self.area.x, self.area.y + self.next, &Line::from(spans), self.area.width);
        }
        self.next = self.next.saturating_add(1);
    }

    fn left(&self) -> usize {
        usize::from(self.area.height.saturating_sub(self.next))
    }

    /// A whole line in reverse.
    fn band(&mut self, text: &str, style: Style) {
        let columns = usize::from(self.area.width);
        let text = cut(text, columns);
        self.line(vec![Span::styled(format!("{text:<columns$}"), style)]);
    }
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, view: &mut View) {
    let area = frame.area();
    let paint = Paint { colour: view.colour, unicode: view.unicode };
    if area.width == 0 || area.height == 0 {
        return;
    }
    // The last line is the keys'.
    let body = Rect { height: area.height.saturating_sub(u16::from(area.height > 3)), ..area };
    let mut pen = Pen { buffer: frame.buffer_mut(), area: body, next: 0 };
    head(&mut pen, view, &paint);
    if view.help {
        help(&mut pen, view, &paint);
    } else {
        cards(&mut pen, view, &paint);
        processes(&mut pen, view, &paint);
    }
    if area.height > 3 {
        let mut pen =
            Pen { buffer: frame.buffer_mut(), area: Rect { y: area.y + area.height - 1, height: 1, ..area }, next: 0 };
        keys(&mut pen, view, &paint);
    }
}

fn head(pen: &mut Pen<'_>, view: &View, paint: &Paint) {
    let mut spans = vec![paint.span(Tone::Strong, &view.name)];
    if let Some(sample) = &view.sample {
        if sample.simulated && !view.name.contains("simulated") {
            spans.push(paint.span(Tone::Warn, " (simulated)"));
        }
        let driver = match &sample.driver {
            Seen::Is(version) => paint.span(Tone::Faint, format!("  driver {version}")),
            Seen::Absent => paint.span(Tone::Warn, "  no NVIDIA driver runs"),
            Seen::Unreadable(_) => paint.span(Tone::Bad, "  NVML does not answer"),
        };
        let time = jiff::Timestamp::try_from(sample.time).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
        spans.push(driver);
        spans.push(paint.span(Tone::Faint, format!("  {}", time.strftime("%H:%M:%S"))));
        if view.paused {
            spans.push(paint.span(Tone::Warn, "  paused"));
        }
    } else {
        spans.push(paint.span(Tone::Faint, "  the driver is asked …"));
    }
    pen.line(spans);
}

fn cards(pen: &mut Pen<'_>, view: &View, paint: &Paint) {
    let Some(sample) = &view.sample else { return };
    if let Seen::Unreadable(why) = &sample.driver {
        for line in wrapped(&why.to_string(), usize::from(pen.area.width)) {
            pen.line(vec![paint.span(Tone::Warn, line)]);
        }
    }
    let cards: Vec<&CardNow> = view.cards().collect();
    let away = if view.only.is_none() { sample.away.len() } else { 0 };
    // Processes are what one looks for: they keep a third of the screen, or what they need.
    let others = 2 + view.rows.len().clamp(1, (pen.left() / 3).max(1)) + if away > 0 { away + 1 } else { 0 };
    let room = pen.left().saturating_sub(others);
    let form = [3, 2].into_iter().find(|lines| cards.len() * lines <= room).unwrap_or(1);
    let fits = cards.len().min(room.max(1) / form);
    for card in cards.iter().take(fits.max(1)) {
        let history = view.history.get(&card.gpu.index);
        match &card.gpu.name {
            Seen::Unreadable(why) => {
                let at = card.bdf.map(|bdf| format!(" {}", bdf.short())).unwrap_or_default();
                pen.line(vec![
                    paint.span(Tone::Strong, format!("{:>2}{at} ", card.gpu.index)),
                    paint.span(Tone::Bad, why.to_string()),
                ]);
            }
            _ if form == 1 => short_card(pen, card, history, paint),
            _ => long_card(pen, card, history, paint, form),
        }
    }
    if cards.len() > fits.max(1) {
        pen.line(vec![paint.span(Tone::Faint, format!("   and {} more: c shows one card", cards.len() - fits.max(1)))]);
    }
    if away > 0 {
        for card in &sample.away {
            let tone = if matches!(card.holder, Holder::Vm(_)) { Tone::Plain } else { Tone::Faint };
            let (name, who) = super::table::away(card);
            pen.line(vec![paint.span(Tone::Strong, format!(" - {name}")), paint.span(tone, format!("  {who}"))]);
        }
    }
}

/// "GeForce GT 1030": the maker is the same for all.
fn model(card: &CardNow) -> String {
    let name = told(&card.gpu.name, "");
    name.strip_prefix("NVIDIA ").map_or(name.clone(), str::to_owned)
}

fn power(card: &CardNow) -> String {
    let watts = |seen: &Seen<u32>| seen.get().map(|mw| mw / 1000);
    match (watts(&card.gpu.power_draw), watts(&card.gpu.power_limit)) {
        (Some(draw), Some(limit)) => format!("{draw} of {limit} W"),
        (Some(draw), None) => format!("{draw} W"),
        (None, Some(limit)) => format!("- of {limit} W"),
        (None, None) => "- W".into(),
    }
}

fn memory(card: &CardNow) -> String {
    let mib = |seen: &Seen<u64>| seen.get().map_or_else(|| "-".into(), |bytes| (bytes >> 20).to_string());
    format!("{}/{} MiB", mib(&card.gpu.memory_used), mib(&card.gpu.memory_total))
}

fn short_card(pen: &mut Pen<'_>, card: &CardNow, history: Option<&History>, paint: &Paint) {
    let bdf = card.bdf.map_or_else(|| "-".into(), |bdf| bdf.short());
    // what is left of the line is the plot's
    let plot = usize::from(pen.area.width).saturating_sub(74).clamp(4, 40);
    let sm = card.gpu.utilization_gpu.get().copied();
    pen.line(vec![
        paint.span(Tone::Strong, format!("{:>2} {:<14} ", card.gpu.index, cut(&model(card), 14))),
        paint.span(Tone::Faint, format!("{bdf:<8}")),
        paint.span(sm.map_or(Tone::Faint, |sm| paint.load(sm)), format!("{:>6} ", per_cent(sm))),
        paint.plot(history.map(|history| &history.sm), plot),
        paint.span(Tone::Plain, format!("{:>17}", memory(card))),
        paint.span(Tone::Plain, format!(" enc {:>3}", told(&card.gpu.utilization_encoder, ""))),
        paint.span(Tone::Plain, format!(" dec {:>3}", told(&card.gpu.utilization_decoder, ""))),
        paint.span(Tone::Faint, format!("{:>4}°", told(&card.gpu.temperature, ""))),
    ]);
}

/// Two or three lines.
fn long_card(pen: &mut Pen<'_>, card: &CardNow, history: Option<&History>, paint: &Paint, lines: usize) {
    let gpu = &card.gpu;
    let columns = usize::from(pen.area.width);
    let bdf = card.bdf.map_or_else(|| "-".into(), |bdf| bdf.short());
    let mut first = vec![
        paint.span(Tone::Strong, format!("{:>2} {}", gpu.index, model(card))),
        paint.span(Tone::Faint, format!("  {bdf}")),
        paint.span(Tone::Plain, format!("  {}", told(&gpu.temperature, " °C"))),
    ];
    if gpu.fan.is_there() {
        first.push(paint.span(Tone::Plain, format!("  fan {}", told(&gpu.fan, " %"))));
    }
    let state = gpu.pstate.get().map(|state| format!("  P{state}")).unwrap_or_default();
    first.push(paint.span(Tone::Plain, format!("  {}{state}  SM {}", power(card), told(&gpu.clock_sm, " MHz"))));
    let xids: u64 = card.xids.values().sum();
    if xids > 0 {
        let last = card.xids.keys().next_back().copied().unwrap_or(0);
        first.push(paint.span(Tone::Bad, format!("  {xids} Xid, {last}")));
    }
    pen.line(first);
    // Two columns of plots: each has its label, its value and what is left.
    let half = columns.saturating_sub(5) / 2;
    let plot = half.saturating_sub(12).clamp(1, 60);
    let one = |label: &str, value: Option<u32>, line: Option<&VecDeque<Option<u32>>>| {
        let tone = if value.is_none() { Tone::Faint } else { Tone::Plain };
        vec![
            paint.span(Tone::Faint, format!("   {label:<4}")),
            paint.span(tone, format!("{:>5} ", per_cent(value))),
            paint.plot(line, plot),
        ]
    };
    let mut second = one("SM", gpu.utilization_gpu.get().copied(), history.map(|history| &history.sm));
    if lines > 2 {
        second.push(paint.span(Tone::Faint, "  mem "));
        second.push(paint.span(Tone::Plain, format!("{:>5} ", per_cent(rows::share(card)))));
        let text = memory(card);
        second.push(paint.bar(rows::share(card), plot.saturating_sub(text.len() + 1).clamp(1, 60)));
        second.push(paint.span(Tone::Plain, format!(" {text}")));
        pen.line(second);
        let mut third = one("enc", gpu.utilization_encoder.get().copied(), history.map(|history| &history.encoder));
        third.push(paint.span(Tone::Faint, "  dec "));
        third.push(paint.span(Tone::Plain, format!("{:>5} ", told(&gpu.utilization_decoder, " %"))));
        third.push(paint.plot(history.map(|history| &history.decoder), plot));
        pen.line(third);
    } else {
        second.push(paint.span(Tone::Plain, format!("{:>18}", memory(card))));
        second.push(paint.span(Tone::Plain, format!("  enc {}", per_cent(gpu.utilization_encoder.get().copied()))));
        second.push(paint.span(Tone::Plain, format!("  dec {}", per_cent(gpu.utilization_decoder.get().copied()))));
        pen.line(second);
    }
}

fn processes(pen: &mut Pen<'_>, view: &mut View, paint: &Paint) {
    let Some(sample) = &view.sample else { return };
    let columns = Columns::fitting(&view.rows, usize::from(pen.area.width));
    pen.band(&columns.head(), paint.style(Tone::Head));
    if sample.blind {
        let why = "This is another PID namespace (a container): NVML counts in the machine's own, so whose these are is not to be \
                   told here. Run thruway top on the machine itself, or in a pod with hostPID.";
        for line in wrapped(why, usize::from(pen.area.width)) {
            pen.line(vec![paint.span(Tone::Warn, line)]);
        }
    }
    let unread = view.cards().find_map(|card| card.processes.unreadable().map(|why| (card.gpu.index, why.to_string())));
    if let Some((card, why)) = unread {
        pen.line(vec![paint.span(Tone::Warn, format!("the processes of card {card} could not be seen: {why}"))]);
    }
    if view.rows.is_empty() && !sample.cards.is_empty() {
        pen.line(vec![paint.span(Tone::Faint, "no process uses the card")]);
    }
    let all = view.rows.len();
    let mut fits = pen.left();
    if all > fits {
        // the last line tells how many more there are
        fits = fits.saturating_sub(1);
    }
    view.fits = fits;
    view.from = view.from.min(all.saturating_sub(fits.max(1)));
    let shown: Vec<&Row> = view.rows.iter().skip(view.from).take(fits).collect();
    for row in &shown {
        let busy = row.sm.unwrap_or(0) + row.encoder.unwrap_or(0) + row.decoder.unwrap_or(0) > 0;
        pen.line(vec![paint.span(if busy { Tone::Plain } else { Tone::Faint }, columns.line(row))]);
    }
    if all > shown.len() && pen.left() > 0 {
        let last = view.from + shown.len();
        pen.line(vec![
            paint.span(Tone::Faint, format!("{} to {last} of {all}: arrow keys", (view.from + 1).min(last))),
        ]);
    }
}

fn keys(pen: &mut Pen<'_>, view: &View, paint: &Paint) {
    let only = view.only.map_or_else(|| "all".into(), |index| index.to_string());
    let order = if view.reversed { ", reversed" } else { "" };
    let all = [
        ("q", "quit".to_owned()),
        ("s", format!("sort: {}{order}", view.sort.name())),
        ("c", format!("card: {only}")),
        ("p", if view.paused { "go on" } else { "pause" }.to_owned()),
        ("h", "help".to_owned()),
    ];
    let mut spans = Vec::new();
    for (key, says) in all {
        spans.push(paint.span(Tone::Head, format!(" {key} ")));
        spans.push(paint.span(Tone::Plain, format!(" {says}  ")));
    }
    pen.line(spans);
}

fn help(pen: &mut Pen<'_>, view: &View, paint: &Paint) {
    pen.line(Vec::new());
    for (key, says) in [
        ("q, ctrl-C", "end"),
        ("s", "sort by memory, SM, encoder, decoder, whose, PID in turn"),
        ("r", "the other way round"),
        ("c, 0 to 9", "one card alone; a or Esc shows all again"),
        ("p, blank", "hold the picture; the plots go on"),
        ("arrows, PgUp, PgDn", "more processes"),
        ("ctrl-Z", "stop; fg goes on"),
        ("h, ?, Esc", "leave this page"),
    ] {
        pen.line(vec![paint.span(Tone::Strong, format!("  {key:<20}")), paint.span(Tone::Plain, says)]);
    }
    let every = format!("{:?}", view.every);
    let says = format!(
        "A look each {every}. SM, ENC, DEC: per cent of the time that the compute units, the encoders and the decoders worked, the mean \
         of all engines of a kind; - is not told by the card or the driver, which is not 0. WHOSE is read from the process's cgroup and \
         the engines' own files. Nothing here changes anything."
    );
    pen.line(Vec::new());
    for line in wrapped(&says, usize::from(pen.area.width).saturating_sub(4)) {
        pen.line(vec![paint.span(Tone::Faint, format!("  {line}"))]);
    }
}

/// Broken at blanks.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut();
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
