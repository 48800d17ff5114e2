//! A small line chart as SVG: a logarithmic axis across, a linear one from 0 up, a legend.

use std::fmt::Write;

pub struct Plot<'a> {
    pub title: &'a str,
    pub across: &'a str,
    pub up: &'a str,
    pub series: Vec<Series<'a>>,
}

pub struct Series<'a> {
    pub name: &'a str,
    /// In order across, both coordinates above 0.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 236.0; // the legend
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Told apart also by those who see few colours (Okabe and Ito), and by their dashes.
const COLOURS: [&str; 7] = ["#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"];
const DASHES: [&str; 2] = ["none", "6 3"];
/// Lines across the chart, about.
const TICKS: f64 = 5.0;

impl Plot<'_> {
    pub fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut out, LEFT, 24.0, "start", self.title);
        let (low, high, top) = self.bounds();
        let x = |value: f64| LEFT + (value / low).ln() / (high / low).ln() * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
        let step = step(top);
        let mut tick = 0.0;
        while tick <= top {
            line(&mut out, (LEFT, y(tick)), (WIDTH - RIGHT, y(tick)), "#dddddd");
            text(&mut out, LEFT - 8.0, y(tick) + 4.0, "end", &format!("{tick}"));
            tick += step;
        }
        for value in self.places() {
            line(&mut out, (x(value), y(0.0)), (x(value), y(0.0) + 5.0), "#444444");
            text(&mut out, x(value), y(0.0) + 19.0, "middle", &grouped(value));
        }
        line(&mut out, (LEFT, y(0.0)), (WIDTH - RIGHT, y(0.0)), "#444444");
        text(&mut out, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0, "middle", self.across);
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let _ = writeln!(out, "<g transform=\"rotate(-90 18 {middle})\">");
        text(&mut out, 18.0, middle, "middle", self.up);
        out.push_str("</g>\n");
        for (index, series) in self.series.iter().enumerate() {
            let look = (COLOURS[index % COLOURS.len()], DASHES[index % DASHES.len()]);
            let points: Vec<_> = series.points.iter().map(|(at, value)| (x(*at), y(*value))).collect();
            curve(&mut out, &points, look);
            let height = TOP + 12.0 + 22.0 * index as f64;
            let start = WIDTH - RIGHT + 16.0;
            curve(&mut out, &[(start, height), (start + 24.0, height)], look);
            text(&mut out, start + 32.0, height + 4.0, "start", series.name);
        }
        out.push_str("</svg>\n");
        out
    }

    /// The ends of the axis across, and the end of the one up.
    fn bounds(&self) -> (f64, f64, f64) {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let low = points().map(|(at, _)| *at).fold(f64::INFINITY, f64::min);
        let high = points().map(|(at, _)| *at).fold(0.0, f64::max);
        let top = points().map(|(_, value)| *value).fold(0.0, f64::max);
        (low, high, (top / step(top)).ceil() * step(top))
    }

    /// Where there are points.
    fn places(&self) -> Vec<f64> {
        let mut places: Vec<f64> =
            self.series.iter().flat_map(|series| series.points.iter().map(|(at, _)| *at)).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        places
    }
}

/// A round number of which a few make up the whole.
fn step(top: f64) -> f64 {
    let power = 10f64.powf((top / TICKS).log10().floor());
    let fits = |factor: &&f64| *factor * power * TICKS >= top;
    [1.0, 2.0, 5.0].iter().find(fits).unwrap_or(&10.0) * power
}

/// With a comma between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let comma = |(index, digit): (usize, char)| {
        let left = digits.len() - index;
        let separator = (index > 0 && left.is_multiple_of(3)).then_some(',');
        separator.into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(comma).collect()
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn curve(out: &mut String, points: &[(f64, f64)], (colour, dashes): (&str, &str)) {
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
        path.join(" ")
    );
}

#[cfg(test)]
mod tests {
    use super::{Plot, Series, grouped, step};

    #[test]
    fn ticks_are_round_and_few() {
        for (top, expected) in [(1.0, 0.2), (4.0, 1.0), (23.0, 5.0), (31.0, 10.0), (50.0, 10.0)] {
            assert!((step(top) - expected).abs() < 1e-9, "{top}: {}", step(top));
        }
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([100.0, 1_000.0, 15_000.0, 1e6].map(grouped), ["100", "1,000", "15,000", "1,000,000"]);
    }

    #[test]
    fn points_stand_where_their_values_say() {
        let points = vec![(100.0, 5.0), (1_000.0, 10.0), (10_000.0, 0.0)];
        let plot =
            Plot { title: "a < b", across: "nodes", up: "us", series: vec![Series { name: "s", points }] };
        let svg = plot.svg();
        // Decades are equally far apart; 0 is on the axis, the greatest value at the top.
        assert!(svg.contains("points=\"64.0,196.0 354.0,44.0 644.0,348.0\""), "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains(">10,000<") && svg.contains(">10<"), "{svg}");
    }
}
