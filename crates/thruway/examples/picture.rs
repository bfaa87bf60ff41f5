//! Turns a report's ANSI text (standard input) into an SVG picture (standard output), for the README:
//!
//! ```text
//! cargo run --release -- --sim seed-host doctor --color always | cargo run --example picture > docs/doctor.svg
//! ```
#![allow(clippy::print_stdout, reason = "its output is the picture")]

use std::io::Read as _;

const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 16.0;

/// Colours of a dark terminal, by SGR code.
fn style(code: &str) -> &'static str {
    match code {
        "1" => "font-weight:bold;fill:#f0f0f0",
        "2" => "fill:#8b949e",
        "32" => "fill:#7ee787",
        "1;31" => "font-weight:bold;fill:#ff7b72",
        "33" => "fill:#e3b341",
        "36" => "fill:#79c0ff",
        _ => "fill:#c9d1d9",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn main() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("a report in UTF-8 on standard input");
    let mut body = String::new();
    let (mut columns, mut rows) = (0usize, 0usize);
    let mut now = "0".to_owned();
    for line in text.lines() {
        let y = MARGIN + HEIGHT * (rows as f64 + 0.8);
        let mut column = 0usize;
        for (n, piece) in line.split("\x1b[").enumerate() {
            let shown = match (n, piece.split_once('m')) {
                (0, _) | (_, None) => piece,
                (_, Some((code, rest))) => {
                    now = code.to_owned();
                    rest
                }
            };
            if !shown.is_empty() {
                let x = MARGIN + WIDTH * column as f64;
                let length = WIDTH * shown.chars().count() as f64;
                body.push_str(&format!(
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{length:.1}\" style=\"{}\" xml:space=\"preserve\">{}</text>\n",
                    style(&now),
                    escape(shown)
                ));
                column += shown.chars().count();
            }
        }
        columns = columns.max(column);
        rows += 1;
    }
    let width = columns as f64 * WIDTH + 2.0 * MARGIN;
    let height = rows as f64 * HEIGHT + 2.0 * MARGIN;
    println!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         font-family=\"ui-monospace,DejaVu Sans Mono,Menlo,monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n{body}</svg>"
    );
}
