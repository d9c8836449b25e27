//! The varieties: shapes made of spheres and ellipsoids, colours and skins.

use libm::{cos, sin};

/// An ellipsoid in the fruit's own frame; the unit is half the picture's side.
#[derive(Clone, Copy, Debug)]
pub struct Ball {
    pub center: [f64; 3],
    pub radii: [f64; 3],
    /// Drawn in the stem's colour, without skin.
    pub stem: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// One ellipsoid with these half-axes.
    Round([f64; 3]),
    /// Spheres along an arc of so many radians: thick in the middle, thin at the ends.
    Bow { length: f64, thickness: f64, bend: f64 },
    /// Spheres along the axis, from one radius at the bottom to another at the top.
    Pear { bottom: f64, neck: f64, height: f64 },
    /// Spheres packed into a drop, as berries are.
    Berries { rows: u32, radius: f64 },
}

#[derive(Clone, Copy, Debug)]
pub enum Skin {
    /// A second colour on one side.
    Blush,
    /// Stripes from pole to pole.
    Stripes(f64),
    /// Dots of the second colour; the number is their density.
    Dots(f64),
    /// Blotches of the second colour.
    Blotches(f64),
}

#[derive(Clone, Copy, Debug)]
pub struct Variety {
    pub name: &'static str,
    pub shape: Shape,
    pub skin: Skin,
    /// Linear RGB, 0 to 1.
    pub colors: [[f64; 3]; 2],
    /// Strength of the highlight.
    pub gloss: f64,
    pub stem: bool,
}

const fn variety(
    name: &'static str,
    shape: Shape,
    skin: Skin,
    colors: [[f64; 3]; 2],
    gloss: f64,
    stem: bool,
) -> Variety {
    Variety { name, shape, skin, colors, gloss, stem }
}

pub const VARIETIES: &[Variety] = &[
    variety(
        "Apple Golden",
        Shape::Round([0.80, 0.74, 0.78]),
        Skin::Dots(9.0),
        [[0.72, 0.62, 0.13], [0.42, 0.40, 0.08]],
        0.5,
        true,
    ),
    variety(
        "Apple Red",
        Shape::Round([0.82, 0.76, 0.80]),
        Skin::Blush,
        [[0.48, 0.03, 0.04], [0.68, 0.40, 0.10]],
        0.7,
        true,
    ),
    variety(
        "Apricot",
        Shape::Round([0.72, 0.74, 0.68]),
        Skin::Blush,
        [[0.83, 0.40, 0.07], [0.70, 0.14, 0.05]],
        0.15,
        false,
    ),
    variety(
        "Banana",
        Shape::Bow { length: 1.9, thickness: 0.24, bend: 1.5 },
        Skin::Blotches(2.2),
        [[0.86, 0.66, 0.06], [0.50, 0.33, 0.05]],
        0.25,
        false,
    ),
    variety(
        "Cucumber",
        Shape::Bow { length: 1.85, thickness: 0.21, bend: 0.35 },
        Skin::Stripes(9.0),
        [[0.06, 0.22, 0.04], [0.22, 0.42, 0.09]],
        0.35,
        false,
    ),
    variety(
        "Grape Blue",
        Shape::Berries { rows: 6, radius: 0.23 },
        Skin::Blotches(1.5),
        [[0.03, 0.03, 0.12], [0.12, 0.12, 0.30]],
        0.45,
        true,
    ),
    variety(
        "Kiwi",
        Shape::Round([0.62, 0.80, 0.60]),
        Skin::Dots(14.0),
        [[0.25, 0.16, 0.07], [0.12, 0.07, 0.03]],
        0.05,
        false,
    ),
    variety(
        "Lemon",
        Shape::Round([0.62, 0.86, 0.62]),
        Skin::Dots(12.0),
        [[0.90, 0.72, 0.04], [0.80, 0.58, 0.02]],
        0.4,
        false,
    ),
    variety(
        "Orange",
        Shape::Round([0.82, 0.80, 0.82]),
        Skin::Dots(16.0),
        [[0.88, 0.32, 0.02], [0.72, 0.22, 0.01]],
        0.3,
        false,
    ),
    variety(
        "Pear",
        Shape::Pear { bottom: 0.60, neck: 0.24, height: 0.92 },
        Skin::Blotches(3.0),
        [[0.52, 0.54, 0.10], [0.38, 0.28, 0.08]],
        0.2,
        true,
    ),
    variety(
        "Plum",
        Shape::Round([0.60, 0.74, 0.58]),
        Skin::Blotches(1.6),
        [[0.13, 0.02, 0.09], [0.30, 0.10, 0.26]],
        0.35,
        true,
    ),
    variety(
        "Raspberry",
        Shape::Berries { rows: 8, radius: 0.15 },
        Skin::Blush,
        [[0.60, 0.04, 0.09], [0.40, 0.01, 0.05]],
        0.4,
        false,
    ),
    variety(
        "Strawberry",
        Shape::Pear { bottom: 0.16, neck: 0.54, height: 0.72 },
        Skin::Dots(15.0),
        [[0.66, 0.03, 0.03], [0.80, 0.55, 0.12]],
        0.4,
        true,
    ),
    variety(
        "Watermelon",
        Shape::Round([0.84, 0.92, 0.84]),
        Skin::Stripes(14.0),
        [[0.24, 0.42, 0.12], [0.03, 0.13, 0.03]],
        0.3,
        false,
    ),
];

impl Variety {
    /// The solid parts in the fruit's own frame.
    pub fn balls(&self) -> Vec<Ball> {
        let sphere = |center, radius| Ball { center, radii: [radius; 3], stem: false };
        let mut balls = match self.shape {
            Shape::Round(radii) => vec![Ball { center: [0.0; 3], radii, stem: false }],
            Shape::Bow { length, thickness, bend } => (0..49)
                .map(|i| {
                    let t = f64::from(i) / 24.0 - 1.0;
                    let turn = t * bend / 2.0;
                    let circle = length / bend;
                    let center = [circle * (cos(turn) - cos(bend / 4.0)), circle * sin(turn), 0.0];
                    sphere(center, thickness * (1.0 - 0.75 * t * t * t * t))
                })
                .collect(),
            Shape::Pear { bottom, neck, height } => (0..28)
                .map(|i| {
                    let t = f64::from(i) / 27.0;
                    let ease = if bottom > neck { t * t * (3.0 - 2.0 * t) } else { t };
                    sphere([0.0, -0.30 + t * height - 0.1, 0.0], bottom + (neck - bottom) * ease)
                })
                .collect(),
            Shape::Berries { rows, radius } => (0..rows)
                .flat_map(|row| {
                    let t = (f64::from(row) + 0.5) / f64::from(rows);
                    let ring = 0.62 * libm::sqrt(t) * (1.25 - 0.55 * t);
                    let count = (ring * 5.2 / radius / 1.7).max(1.0) as u32;
                    (0..count).map(move |i| {
                        let around =
                            (f64::from(i) + 0.5 * f64::from(row % 2)) / f64::from(count) * std::f64::consts::TAU;
                        sphere([ring * cos(around), -0.72 + 1.35 * t, ring * sin(around)], radius)
                    })
                })
                .collect(),
        };
        if self.stem {
            let top = balls.iter().map(|b| b.center[1] + b.radii[1]).fold(f64::MIN, f64::max);
            balls.extend((0..16).map(|i| {
                let t = f64::from(i) / 3.0;
                Ball { center: [0.012 * t * t, top - 0.03 + 0.035 * t, 0.0], radii: [0.04; 3], stem: true }
            }));
        }
        balls
    }
}
