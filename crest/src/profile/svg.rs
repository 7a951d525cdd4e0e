//! Flame graphs (B. Gregg, "The Flame Graph", Communications of the ACM 59(6), 2016) as SVG.
//!
//! A box is a function, as wide as the samples in which it was on the stack, on top of its
//! caller; siblings stand in alphabetical order, which has nothing to do with time. The picture
//! needs nothing but a browser: a click widens a box to the full width, a click on the lowest
//! one goes back, and resting on a box names it.
//!
//! In a difference, widths are those of the second profile. A box is red where its share of the
//! samples rose and blue where it fell, the more so the larger the change of its function's own
//! time; what no longer runs at all has no box, and is in the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::fold::Stacks;

const WIDTH: f64 = 1200.0;
const SIDE: f64 = 10.0;
const TOP: f64 = 40.0;
const ROW: f64 = 16.0;
/// A narrower box can't be seen; its samples are in the file of folded stacks.
const WIDTH_MIN: f64 = 0.3;
/// Width of a letter of the 11 px monospaced type.
const LETTER: f64 = 6.7;
/// A change of a box's own share by so many percentage points has the strongest colour.
const STRONGEST_POINTS: f64 = 5.0;

/// A function below its callers.
#[derive(Default)]
struct Node {
    /// Samples in the picture that end here.
    own: u64,
    /// Those of the profile that it is compared with.
    own_before: u64,
    callees: BTreeMap<String, Node>,
}

impl Node {
    /// Adds stacks; `own` picks which of the two counts they go to.
    fn grow(&mut self, stacks: &Stacks, own: fn(&mut Node) -> &mut u64) {
        for (stack, samples) in stacks.iter() {
            let mut node = &mut *self;
            for function in stack {
                node = node.callees.entry(function.to_string()).or_default();
            }
            *own(node) += samples;
        }
    }

    /// Samples in the picture that end here or further in.
    fn samples(&self) -> u64 {
        self.own + self.callees.values().map(Node::samples).sum::<u64>()
    }
}

type Colour = (u8, u8, u8);

/// The flame graph of a profile.
pub(crate) fn flame_graph(title: &str, stacks: &Stacks) -> String {
    let mut root = Node::default();
    root.grow(stacks, |node| &mut node.own);
    draw(title, &root, |name, _| (warm(name), String::new()))
}

/// The flame graph of `after`, coloured by what changed since `before`.
pub(crate) fn difference(title: &str, before: &Stacks, after: &Stacks) -> String {
    let mut root = Node::default();
    root.grow(after, |node| &mut node.own);
    root.grow(before, |node| &mut node.own_before);
    let (all_before, all_after) = (before.samples().max(1), after.samples().max(1));
    draw(title, &root, |_, node| {
        let share = |own: u64, all: u64| own as f64 * 100.0 / all as f64;
        let points = share(node.own, all_after) - share(node.own_before, all_before);
        let pale = (250.0 - 170.0 * (points.abs() / STRONGEST_POINTS).min(1.0)) as u8;
        let colour = if points >= 0.0 { (255, pale, pale) } else { (pale, pale, 255) };
        (colour, format!(", itself {points:+.2} points"))
    })
}

/// A colour that a function keeps in every picture: yellow to red.
fn warm(name: &str) -> Colour {
    // FNV-1a: any spread will do.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let part = |shift: u32, span: u64| ((hash >> shift) % span) as u8;
    (205 + part(16, 50), 90 + part(32, 130), 40 + part(48, 40))
}

/// Draws boxes coloured by `paint`, which may add words to a box's name.
fn draw(title: &str, root: &Node, paint: impl Fn(&str, &Node) -> (Colour, String)) -> String {
    let all = root.samples().max(1);
    let mut boxes = String::new();
    let mut rows = 0;
    let mut waiting = vec![("all", root, 0, 0)];
    while let Some((name, node, depth, before)) = waiting.pop() {
        let samples = node.samples();
        let width = samples as f64 / all as f64 * (WIDTH - 2.0 * SIDE);
        if width < WIDTH_MIN {
            continue;
        }
        rows = rows.max(depth + 1);
        let ((red, green, blue), words) = paint(name, node);
        let left = SIDE + before as f64 / all as f64 * (WIDTH - 2.0 * SIDE);
        let percent = samples as f64 * 100.0 / all as f64;
        let letters = ((width - 4.0).max(0.0) / LETTER) as usize;
        let label: String = match letters {
            0..3 => String::new(),
            letters if name.chars().count() <= letters => name.to_string(),
            letters => name.chars().take(letters - 2).chain("..".chars()).collect(),
        };
        // The row is filled in when it is known how many there are: `depth` counts from below.
        let _ = writeln!(
            boxes,
            r#"<g class="f" data-d="{depth}"><title>{name} ({samples} samples, {percent:.2}%{words})</title><rect x="{left:.2}" y="%{depth}%" width="{width:.2}" height="15" fill="rgb({red},{green},{blue})"/><text x="{text:.2}" y="%{depth}%" dy="11.5">{label}</text></g>"#,
            name = escaped(name),
            text = left + 2.0,
            label = escaped(&label),
        );
        let mut from = before;
        for (name, callee) in &node.callees {
            waiting.push((name, callee, depth + 1, from));
            from += callee.samples();
        }
    }
    let height = TOP + ROW * f64::from(rows) + SIDE;
    for depth in 0..rows {
        let y = height - SIDE - ROW * f64::from(depth + 1);
        boxes = boxes.replace(&format!("\"%{depth}%\""), &format!("\"{y:.0}\""));
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">
<style>.f{{cursor:pointer}} .f:hover rect{{stroke:#000;stroke-width:.6}} text{{pointer-events:none}}</style>
<rect width="100%" height="100%" fill="#fffdf5"/>
<text x="{middle}" y="22" text-anchor="middle" font-size="15">{title}</text>
{boxes}<script><![CDATA[{SCRIPT}]]></script>
</svg>
"##,
        middle = WIDTH / 2.0,
        title = escaped(title),
    )
}

/// Widens a box that is clicked: its callers become as wide as the picture, what isn't above or
/// below it goes away.
const SCRIPT: &str = r"
const boxes = [...document.querySelectorAll('.f')].map(g => {
  const r = g.querySelector('rect'), t = g.querySelector('text');
  return {g, r, t, x: +r.getAttribute('x'), w: +r.getAttribute('width'), d: +g.dataset.d,
          name: g.querySelector('title').textContent.replace(/ \([^(]*\)$/, '')};
});
const full = boxes.find(b => b.d === 0);
for (const chosen of boxes) chosen.g.addEventListener('click', () => {
  const scale = full.w / chosen.w, end = chosen.x + chosen.w;
  for (const b of boxes) {
    const caller = b.d < chosen.d && b.x <= chosen.x + .01 && b.x + b.w >= end - .01;
    const inside = b.d >= chosen.d && b.x >= chosen.x - .01 && b.x + b.w <= end + .01;
    b.g.style.display = caller || inside ? '' : 'none';
    if (!(caller || inside)) continue;
    const x = caller ? full.x : full.x + (b.x - chosen.x) * scale;
    const w = caller ? full.w : b.w * scale, fit = Math.floor((w - 4) / 6.7);
    b.r.setAttribute('x', x); b.r.setAttribute('width', w); b.t.setAttribute('x', x + 2);
    b.t.textContent =
      fit < 3 ? '' : b.name.length <= fit ? b.name : b.name.slice(0, fit - 2) + '..';
  }
});
";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::{Expect, expect};

    use super::*;

    fn stacks(text: &str) -> Stacks {
        Stacks::parse(text, Path::new("x.folded")).unwrap()
    }

    /// The boxes of a picture: name, left edge, width, colour.
    fn check(svg: &str, expected: Expect) {
        let between = |text: &str, from: &str, to: &str| {
            let (_, rest) = text.split_once(from).unwrap();
            rest.split_once(to).unwrap().0.to_string()
        };
        let mut found = String::new();
        for line in svg.lines().filter(|line| line.starts_with("<g ")) {
            let name = between(line, "<title>", "</title>");
            let (x, width) = (between(line, " x=\"", "\""), between(line, "width=\"", "\""));
            let (y, fill) = (between(line, " y=\"", "\""), between(line, "fill=\"", "\""));
            writeln!(found, "{name}: x {x} y {y} width {width} {fill}").unwrap();
        }
        expected.assert_eq(&found);
    }

    #[test]
    fn a_box_is_as_wide_as_its_samples_and_stands_on_its_caller() {
        check(
            &flame_graph("t", &stacks("crest-0;a<T>;b 3\ncrest-0;a<T> 1\n")),
            expect![[r#"
                all (4 samples, 100.00%): x 10.00 y 88 width 1180.00 rgb(210,185,40)
                crest-0 (4 samples, 100.00%): x 10.00 y 72 width 1180.00 rgb(240,104,58)
                a&lt;T&gt; (4 samples, 100.00%): x 10.00 y 56 width 1180.00 rgb(217,142,70)
                b (3 samples, 75.00%): x 10.00 y 40 width 885.00 rgb(218,188,59)
            "#]],
        );
    }

    #[test]
    fn a_difference_is_red_where_a_share_rose_and_blue_where_it_fell() {
        let (before, after) = (stacks("t;a 50\nt;b 50\n"), stacks("t;a 52\nt;b 40\nt;c 8\n"));
        check(
            &difference("t", &before, &after),
            expect![[r#"
            all (100 samples, 100.00%, itself +0.00 points): x 10.00 y 72 width 1180.00 rgb(255,250,250)
            t (100 samples, 100.00%, itself +0.00 points): x 10.00 y 56 width 1180.00 rgb(255,250,250)
            c (8 samples, 8.00%, itself +8.00 points): x 1095.60 y 40 width 94.40 rgb(255,80,80)
            b (40 samples, 40.00%, itself -10.00 points): x 623.60 y 40 width 472.00 rgb(80,80,255)
            a (52 samples, 52.00%, itself +2.00 points): x 10.00 y 40 width 613.60 rgb(255,182,182)
        "#]],
        );
    }
}
