//! Drawing: axes and marks of one plot, as inline SVG that needs nothing from anywhere.

use std::fmt::Write;

use crate::units::value_text;

/// The width of every plot, in its own units: of a size that a phone shows readably, and a page beside others.
pub(super) const WIDTH: f64 = 360.0;

/// `text` with what HTML would take for its own replaced.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A linear axis from values to places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis that holds all finite `values`, with a little room, from place `from` to `to`; `None` without values.
    pub(super) fn around(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Option<Self> {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (low, high) = finite
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return None;
        }
        let room = if high > low { 0.05 * (high - low) } else { (0.1 * low.abs()).max(1e-9) };
        Some(Self { low: low - room, high: high + room, from, to })
    }

    /// An axis from `low` to `high`, which are different.
    pub(super) fn between(low: f64, high: f64, from: f64, to: f64) -> Self {
        Self { low, high, from, to }
    }

    /// The place of `value`.
    pub(super) fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round values on it, about `count` of them.
    pub(super) fn ticks(&self, count: u32) -> Vec<f64> {
        let raw = (self.high - self.low) / f64::from(count);
        let magnitude = 10.0_f64.powf(raw.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude).into_iter().find(|step| *step >= raw);
        let step = step.unwrap_or(10.0 * magnitude);
        let first = (self.low / step).ceil();
        let inside = |number: u32| Some((first + f64::from(number)) * step).filter(|tick| *tick <= self.high);
        (0..=2 * count).map_while(inside).collect()
    }
}

/// A tick's label, without digits that say nothing.
pub(super) fn tick_text(tick: f64) -> String {
    // Sums of steps miss zero by a rounding error.
    let tick = if tick.abs() < 1e-12 { 0.0 } else { tick };
    let text = value_text(tick);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// One plot.
pub(super) struct Plot {
    height: f64,
    body: String,
}

impl Plot {
    pub(super) fn new(height: f64) -> Self {
        Self { height, body: String::new() }
    }

    pub(super) fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let text = escaped(text);
        let _ = write!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#
        );
    }

    pub(super) fn line(&mut self, from: [f64; 2], to: [f64; 2], class: &str) {
        let ([x1, y1], [x2, y2]) = (from, to);
        let _ = write!(
            self.body,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        );
    }

    pub(super) fn dot(&mut self, x: f64, y: f64, class: &str) {
        let _ =
            write!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" stroke="none" class="dot {class}"/>"#);
    }

    pub(super) fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str) {
        let _ = write!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" class="{class}"/>"#
        );
    }

    pub(super) fn curve(&mut self, points: impl IntoIterator<Item = [f64; 2]>, class: &str) {
        let points: Vec<String> = points.into_iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        // The class colours both; a curve has no inside.
        let _ = write!(
            self.body,
            r#"<polyline points="{}" class="curve {class}" style="fill:none"/>"#,
            points.join(" ")
        );
    }

    /// The axis below the plot, at `y`, with ticks and what it shows.
    pub(super) fn below(&mut self, axis: &Axis, y: f64, title: &str) {
        self.line([axis.from, y], [axis.to, y], "axis");
        for tick in axis.ticks(4) {
            let x = axis.place(tick);
            self.line([x, y], [x, y + 4.0], "axis");
            self.text(x, y + 15.0, "middle", "faint", &tick_text(tick));
        }
        self.text(axis.to, y + 29.0, "end", "faint", title);
    }

    /// The axis left of the plot, at `x`, with ticks.
    pub(super) fn beside(&mut self, axis: &Axis, x: f64) {
        self.line([x, axis.from], [x, axis.to], "axis");
        for tick in axis.ticks(4) {
            let y = axis.place(tick);
            self.line([x - 4.0, y], [x, y], "axis");
            self.text(x - 6.0, y + 4.0, "end", "faint", &tick_text(tick));
        }
    }

    /// The figure, with what it shows in words for those who cannot see it.
    pub(super) fn figure(self, caption: &str) -> String {
        let caption = escaped(caption);
        format!(
            r#"<figure><svg viewBox="0 0 {WIDTH} {}" role="img" aria-label="{caption}">{}</svg><figcaption>{caption}</figcaption></figure>"#,
            self.height, self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis::around([0.93, 1.27], 0.0, 100.0).unwrap();
        let ticks: Vec<String> = axis.ticks(4).into_iter().map(tick_text).collect();
        assert_eq!(ticks, ["1", "1.1", "1.2"]);
        assert_eq!(tick_text(1000.0), "1000");
        assert!(Axis::around([f64::NAN], 0.0, 1.0).is_none());
    }

    #[test]
    fn equal_values_have_an_axis_too() {
        let axis = Axis::around([5.0, 5.0], 0.0, 100.0).unwrap();
        assert!((axis.place(5.0) - 50.0).abs() < 1e-9);
        assert!((Axis::around([0.0], 0.0, 100.0).unwrap().place(0.0) - 50.0).abs() < 1e-6);
    }

    #[test]
    fn a_name_cannot_become_markup() {
        let mut plot = Plot::new(10.0);
        plot.text(0.0, 0.0, "start", "", "<script>&\"");
        assert!(plot.figure("a < b").contains("&lt;script&gt;&amp;&quot;"));
    }
}
