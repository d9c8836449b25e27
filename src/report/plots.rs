//! The plots of a report, as SVG for the page and as PNG for slides. The crate plotters draws both.
//!
//! The colours of the SVG are CSS variables, which the style sheet of the page defines for light and dark mode.

use std::{collections::BTreeMap, sync::LazyLock};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

use crate::{Error, ErrorKind, Result, report::text::shorten};

/// Width and height of a plot in CSS pixels.
const SIZE: (u32, u32) = (640, 430);
/// Pixels of a PNG per CSS pixel.
const SCALE: u32 = 2;
const MARGIN: u32 = 10;
const FONT: &str = "sans-serif";
/// Width of the legend, height of a line, number of lines, and characters per line.
const LEGEND: u32 = 150;
const LINE: u32 = 24;
const LINES: usize = 16;
const LETTERS: usize = 14;
/// The share of variance at which the scree plot has a line.
const MARK: f64 = 0.9;

/// Colours of the labels; they repeat after the last.
pub(super) const PALETTE: [(u8, u8, u8); 20] = [
    (31, 119, 180),
    (230, 126, 34),
    (39, 153, 78),
    (208, 52, 58),
    (138, 92, 190),
    (133, 92, 70),
    (219, 100, 178),
    (120, 128, 40),
    (0, 150, 160),
    (94, 105, 120),
    (200, 160, 0),
    (70, 80, 200),
    (170, 60, 110),
    (90, 170, 60),
    (120, 190, 230),
    (240, 150, 130),
    (60, 110, 110),
    (180, 140, 220),
    (150, 100, 20),
    (20, 60, 120),
];

/// Colours of lines and text.
struct Theme {
    text: RGBColor,
    grid: RGBColor,
    accent: RGBColor,
    quiet: RGBColor,
}

/// Placeholders, which [`svg`] replaces by the names of CSS variables. Nothing else has these colours.
const NAMED: Theme =
    Theme { text: RGBColor(1, 1, 1), grid: RGBColor(2, 2, 2), accent: RGBColor(3, 3, 3), quiet: RGBColor(4, 4, 4) };
const NAMES: [(&str, &str); 4] = [
    ("#010101", "currentColor"),
    ("#020202", "var(--grid)"),
    ("#030303", "var(--accent)"),
    ("#040404", "var(--quiet)"),
];
const PLAIN: Theme = Theme {
    text: RGBColor(30, 36, 33),
    grid: RGBColor(222, 226, 222),
    accent: RGBColor(47, 110, 79),
    quiet: RGBColor(150, 158, 152),
};

/// Explained variance by component.
#[derive(Clone, Debug)]
pub(super) struct Scree {
    /// Shares of the variance of all components, descending.
    pub(super) shares: Vec<f64>,
    /// Number of components that were kept.
    pub(super) kept: usize,
    /// Number of components that explain [`MARK`].
    pub(super) for_mark: usize,
}

/// Points in the plane of two components.
#[derive(Clone, Debug)]
pub(super) struct Scatter {
    /// Names of the components.
    pub(super) axes: [String; 2],
    /// The scores that the axes cover, of all images.
    pub(super) ranges: [Range; 2],
    /// The points of the PNG: two scores, and the index of the label.
    pub(super) points: Vec<(f64, f64, usize)>,
    /// Names of the labels by index, for the legend of the PNG.
    pub(super) labels: BTreeMap<usize, String>,
}

/// The smallest and the largest score of a component.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    low: f64,
    high: f64,
}

impl From<(f64, f64)> for Range {
    fn from((low, high): (f64, f64)) -> Self {
        Range { low, high }
    }
}

impl Range {
    /// The range with a margin.
    fn axis(self) -> std::ops::Range<f64> {
        let room = ((self.high - self.low) * 0.05).max(1e-6);
        self.low - room..self.high + room
    }
}

/// Where a scatter plot has the smallest scores and the largest ones, in CSS pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Corners {
    pub(super) lowest: (i32, i32),
    pub(super) highest: (i32, i32),
}

/// Who draws the points of a scatter plot.
#[derive(Clone, Copy, PartialEq)]
enum Points {
    /// plotters does.
    Drawn,
    /// The script of the page does.
    Omitted,
}

fn colour(label: usize) -> RGBColor {
    let (r, g, b) = PALETTE[label % PALETTE.len()];
    RGBColor(r, g, b)
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InternalBug, "a plot could not be drawn").source(e.to_string())
}

/// Registers the font. plotters has none of its own, and needs one for the size of text.
fn fonts() -> Result<()> {
    static REGISTERED: LazyLock<bool> =
        LazyLock::new(|| register_font(FONT, FontStyle::Normal, dejavu::sans::regular()).is_ok());
    if *REGISTERED { Ok(()) } else { Err(failed("the font cannot be read")) }
}

/// Draws an SVG without a fixed size, so that it fills the width of its container.
fn svg<T>(draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>, &Theme, u32) -> Result<T>) -> Result<(String, T)> {
    fonts()?;
    let mut text = String::new();
    let drawn = {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let drawn = draw(&root, &NAMED, 1)?;
        root.present().map_err(failed)?;
        drawn
    };
    for (colour, name) in NAMES {
        text = text.replace(colour, name);
    }
    let fixed = format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1);
    Ok((text.replacen(&fixed, "", 1), drawn))
}

fn png<T>(draw: impl FnOnce(&DrawingArea<BitMapBackend<'_>, Shift>, &Theme, u32) -> Result<T>) -> Result<Vec<u8>> {
    fonts()?;
    let (width, height) = (SIZE.0 * SCALE, SIZE.1 * SCALE);
    let mut pixels = vec![255; width as usize * height as usize * 3];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        draw(&root, &PLAIN, SCALE)?;
        root.present().map_err(failed)?;
    }
    let mut file = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Sub);
    image::ImageEncoder::write_image(encoder, &pixels, width, height, image::ExtendedColorType::Rgb8)
        .map_err(failed)?;
    Ok(file)
}

impl Scree {
    pub(super) fn svg(&self) -> Result<String> {
        Ok(svg(|root, theme, scale| self.draw(root, theme, scale))?.0)
    }

    pub(super) fn png(&self) -> Result<Vec<u8>> {
        png(|root, theme, scale| self.draw(root, theme, scale))
    }

    /// Number of components to draw: the kept ones, and those up to the mark unless they are many more.
    pub(super) fn shown(&self) -> usize {
        let wanted = self.kept.max(if self.for_mark <= 3 * self.kept { self.for_mark + 2 } else { 0 });
        wanted.min(self.shares.len())
    }

    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>, theme: &Theme, scale: u32) -> Result<()> {
        let shown = self.shown();
        let highest = self.shares.first().copied().unwrap_or(1.0).max(1e-9) * 1.1;
        let font = |size: u32| (FONT, size * scale).into_font().color(&theme.text);
        let mut chart = ChartBuilder::on(root)
            .margin(MARGIN * scale)
            .x_label_area_size(54 * scale)
            .y_label_area_size(72 * scale)
            .right_y_label_area_size(96 * scale)
            .build_cartesian_2d(-0.6..shown as f64 - 0.4, 0.0..highest)
            .map_err(failed)?
            .set_secondary_coord(-0.6..shown as f64 - 0.4, 0.0..1.0f64);
        let percent = |share: &f64| format!("{:.0} %", share * 100.0);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(theme.grid)
            .axis_style(theme.quiet)
            .y_label_formatter(&percent)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .x_desc("component")
            .y_desc("share of the variance (bars)")
            .axis_desc_style(font(18))
            .label_style(font(17))
            .draw()
            .map_err(failed)?;
        chart
            .configure_secondary_axes()
            .y_desc("cumulative (line)")
            .y_label_formatter(&percent)
            .axis_style(theme.quiet)
            .axis_desc_style(font(18))
            .label_style(font(17))
            .draw()
            .map_err(failed)?;
        let bars = self.shares.iter().take(shown).enumerate().map(|(i, share)| {
            let colour = if i < self.kept { theme.accent } else { theme.quiet };
            Rectangle::new([(i as f64 - 0.4, 0.0), (i as f64 + 0.4, *share)], colour.filled())
        });
        chart.draw_series(bars).map_err(failed)?;
        let line = self.cumulative().into_iter().take(shown).enumerate().map(|(i, share)| (i as f64, share));
        chart.draw_secondary_series(LineSeries::new(line, theme.text.stroke_width(2 * scale))).map_err(failed)?;
        let mark = [(-0.6, MARK), (shown as f64 - 0.4, MARK)];
        chart.draw_secondary_series(LineSeries::new(mark, theme.quiet.stroke_width(scale))).map_err(failed)?;
        let label = format!("90 %: {} components", self.for_mark);
        let label = Text::new(label, (-0.3, MARK + 0.055), font(17));
        chart.draw_secondary_series([label]).map_err(failed)?;
        Ok(())
    }

    /// Cumulative shares.
    fn cumulative(&self) -> Vec<f64> {
        let mut sum = 0.0;
        self.shares
            .iter()
            .map(|share| {
                sum += share;
                sum
            })
            .collect()
    }
}

impl Scatter {
    /// The axes, and where the scores are.
    pub(super) fn svg(&self) -> Result<(String, Corners)> {
        svg(|root, theme, scale| self.draw(root, theme, scale, Points::Omitted))
    }

    pub(super) fn png(&self) -> Result<Vec<u8>> {
        png(|root, theme, scale| {
            if self.labels.len() < 2 {
                return self.draw(root, theme, scale, Points::Drawn);
            }
            let (plot, legend) = root.split_horizontally((SIZE.0 - LEGEND) * scale);
            self.draw_legend(&legend, theme, scale)?;
            self.draw(&plot, theme, scale, Points::Drawn)
        })
    }

    fn draw_legend<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, theme: &Theme, scale: u32) -> Result<()> {
        let font = (FONT, 15 * scale).into_font().color(&theme.text);
        let at = |line: usize| ((MARGIN + LINE * line as u32 + LINE / 2) * scale) as i32;
        // The last line says "and N more" if the labels do not fit.
        let named = if self.labels.len() > LINES { LINES - 1 } else { LINES };
        for (line, (label, name)) in self.labels.iter().take(named).enumerate() {
            area.draw(&Circle::new(((8 * scale) as i32, at(line)), 4 * scale as i32, colour(*label).filled()))
                .map_err(failed)?;
            let text =
                Text::new(shorten(name, LETTERS), ((18 * scale) as i32, at(line) - 4 * scale as i32), font.clone());
            area.draw(&text).map_err(failed)?;
        }
        if self.labels.len() > named {
            let text = format!("and {} more", self.labels.len() - named);
            area.draw(&Text::new(text, ((18 * scale) as i32, at(named) - 4 * scale as i32), font)).map_err(failed)?;
        }
        Ok(())
    }

    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        theme: &Theme,
        scale: u32,
        points: Points,
    ) -> Result<Corners> {
        let [x, y] = self.ranges;
        let font = |size: u32| (FONT, size * scale).into_font().color(&theme.text);
        let mut chart = ChartBuilder::on(root)
            .margin(MARGIN * scale)
            .x_label_area_size(54 * scale)
            .y_label_area_size(72 * scale)
            .build_cartesian_2d(x.axis(), y.axis())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(theme.grid)
            .axis_style(theme.quiet)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .x_desc(&self.axes[0])
            .y_desc(&self.axes[1])
            .axis_desc_style(font(18))
            .label_style(font(17))
            .draw()
            .map_err(failed)?;
        if points == Points::Drawn {
            let dot = |(x, y, label): &(f64, f64, usize)| {
                Circle::new((*x, *y), 3 * scale as i32, colour(*label).mix(0.7).filled())
            };
            chart.draw_series(self.points.iter().map(dot)).map_err(failed)?;
        }
        let at = |x: f64, y: f64| chart.backend_coord(&(x, y));
        Ok(Corners { lowest: at(x.low, y.low), highest: at(x.high, y.high) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scree() -> Scree {
        Scree { shares: vec![0.5, 0.3, 0.15, 0.05], kept: 2, for_mark: 3 }
    }

    #[test]
    fn a_scree_plot_has_a_bar_per_component_and_only_css_colours() {
        let text = scree().svg().unwrap();
        assert_eq!(text.matches("var(--accent)").count(), 2, "{text}");
        assert!(
            text.contains("90 %: 3 components") && !text.contains("#01") && !text.contains("width=\"640\" "),
            "{text}"
        );
        assert_eq!(&scree().png().unwrap()[1..4], b"PNG");
    }

    fn scatter(labels: BTreeMap<usize, String>) -> Scatter {
        let axes = ["pc_0".to_owned(), "pc_1".to_owned()];
        let ranges = [(0.0, 1.0), (0.0, 2.0)].map(Range::from);
        Scatter { axes, ranges, points: vec![(0.0, 0.0, 0), (1.0, 2.0, 1)], labels }
    }

    #[test]
    fn a_scatter_plot_says_where_its_scores_are() {
        let (_, Corners { lowest, highest }) = scatter(BTreeMap::new()).svg().unwrap();
        assert!(lowest.0 < highest.0 && lowest.1 > highest.1, "{lowest:?} {highest:?}");
        for (x, y) in [lowest, highest] {
            assert!((0..640).contains(&x) && (0..430).contains(&y), "{x} {y}");
        }
        let flat = Scatter { ranges: [(1.0, 1.0); 2].map(Range::from), points: vec![], ..scatter(BTreeMap::new()) };
        let (_, Corners { lowest, highest }) = flat.svg().unwrap();
        assert_eq!(lowest, highest);
    }

    #[test]
    fn the_legend_shows_invisible_characters_as_escapes() {
        let with_label =
            |name: &str| scatter(BTreeMap::from([(0, name.to_owned()), (1, "b".to_owned())])).png().unwrap();
        assert_eq!(with_label("a\u{202e}"), with_label("a\\u{202e}"));
        assert_ne!(with_label("a\u{202e}"), with_label("a"));
    }

    /// Counts the palette colours in the legend of the PNG.
    #[test]
    fn the_legend_of_a_scatter_plot_has_the_colours_of_the_labels() {
        let names =
            |count: usize| (0..count).map(|label| (label, format!("a variety with a long name {label}"))).collect();
        let colours_of_legend = |labels: BTreeMap<usize, String>| {
            let file = scatter(labels).png().unwrap();
            let picture = image::load_from_memory(&file).unwrap().to_rgb8();
            let in_legend = picture.enumerate_pixels().filter(|(x, ..)| *x >= (SIZE.0 - LEGEND) * SCALE);
            let seen: std::collections::BTreeSet<_> = in_legend.map(|(_, _, pixel)| pixel.0).collect();
            PALETTE.iter().filter(|(r, g, b)| seen.contains(&[*r, *g, *b])).count()
        };
        assert_eq!(colours_of_legend(names(1)), 0);
        assert_eq!(colours_of_legend(names(3)), 3);
        assert_eq!(colours_of_legend(names(LINES)), LINES);
        assert_eq!(colours_of_legend(names(LINES + 1)), LINES - 1);
    }
}
