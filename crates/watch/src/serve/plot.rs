//! A card's value with its last minutes, as a small picture.

use std::fmt::Write as _;

/// What a plot shows of the past, in seconds: as much as there is, within these.
pub const SPAN: (f64, f64) = (60.0, 600.0);
/// A plot's own units.
const WIDE: f64 = 240.0;
const HIGH: f64 = 48.0;

/// `points`: (seconds before now, value), oldest first; `top`: the value that is drawn at the upper edge.
pub fn plot(
    out: &mut String,
    label: &str,
    class: &str,
    value: Option<&str>,
    points: &[(f64, f32)],
    span: f64,
    top: f64,
) {
    let _ = write!(out, "<figure class=\"plot {class}\"><figcaption>{label}</figcaption>");
    let Some(value) = value else {
        out.push_str("<p class=\"value none\">not told</p><div class=\"empty\"></div></figure>");
        return;
    };
    let _ = write!(out, "<p class=\"value\">{value}</p>");
    let most = points.iter().fold(0.0_f64, |most, (_, value)| most.max(f64::from(*value)));
    let least = points.iter().fold(f64::MAX, |least, (_, value)| least.min(f64::from(*value)));
    let top = top.max(most).max(1.0);
    let at = |(age, value): &(f64, f32)| {
        let x = WIDE - age / span * WIDE;
        (x.round(), (HIGH - 1.0 - f64::from(*value) / top * (HIGH - 3.0)).round())
    };
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDE} {HIGH}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label} over the last \
         {span:.0} seconds: least {:.0}, most {most:.0}\">",
        if points.is_empty() { 0.0 } else { least }
    );
    let _ = write!(out, "<path class=\"grid\" d=\"M0 {0}H{WIDE}M0 {1}H{WIDE}\"/>", HIGH / 2.0, HIGH - 0.5);
    let line: Vec<(f64, f64)> = thinned(points.iter().map(at));
    match line.as_slice() {
        [] => {}
        [(x, y)] => _ = write!(out, "<path class=\"line\" d=\"M{} {y}h3\"/>", x - 3.0),
        [(from, y), rest @ ..] => {
            let mut path = format!("M{from} {y}");
            let mut last = (*from, *y);
            for (x, y) in rest {
                let _ = write!(path, "l{} {}", x - last.0, y - last.1);
                last = (*x, *y);
            }
            let _ =
                write!(out, "<path class=\"fill\" d=\"{path}V{HIGH}H{from}Z\"/><path class=\"line\" d=\"{path}\"/>");
        }
    }
    out.push_str("</svg></figure>");
}

/// So many points a plot at the most: eight cards' plots are to be small.
const THIN: f64 = 60.0;

/// The highest of each step of time, and of equal neighbours the first and the last.
fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut line: Vec<(f64, f64)> = Vec::new();
    for (x, y) in points {
        let step = |x: f64| (x / WIDE * THIN).floor();
        match line.as_mut_slice() {
            // high is a small number here
            [.., last] if step(last.0) == step(x) => last.1 = last.1.min(y),
            [.., before, last] if before.1 == y && last.1 == y => last.0 = x,
            _ => line.push((x, y)),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_small_whatever_it_shows() {
        let flat = thinned((0..720).map(|n| (f64::from(n) / 3.0, 7.0)));
        assert_eq!(flat, [(0.0, 7.0), (236.0, 7.0)]);
        let wild = thinned((0..720).map(|n| (f64::from(n) / 3.0, f64::from(n % 2))));
        assert!(wild.len() <= 60 && wild.iter().all(|(_, y)| *y == 0.0), "{wild:?}");
        assert_eq!(thinned([(240.0, 3.0)].into_iter()), [(240.0, 3.0)]);
    }
}
