//! The varieties of the rendered data set: shapes made of ellipsoids, colours and skins.

use libm::{cos, sin};

/// A point or direction.
pub(super) type Vector = [f64; 3];

/// An ellipsoid in the fruit's frame of reference, whose unit is half the side of the picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ball {
    pub(super) center: Vector,
    pub(super) radii: Vector,
    /// Whether it has the colour of the stem, and no skin.
    pub(super) stem: bool,
}

impl Ball {
    fn sphere(center: Vector, radius: f64) -> Self {
        Ball { center, radii: [radius; 3], stem: false }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// An ellipsoid with these half-axes.
    Round(Vector),
    /// Spheres along an arc of `bend` radians, thick in the middle and thin at the ends.
    Bow { length: f64, thickness: f64, bend: f64 },
    /// Spheres along the axis; their radius changes from `bottom` to `neck`.
    Pear { bottom: f64, neck: f64, height: f64 },
    /// Rows of spheres, as in a berry or a bunch of grapes.
    Berries { rows: u32, radius: f64 },
}

/// How the second colour is distributed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Skin {
    /// On one side.
    Blush,
    /// This many stripes, from pole to pole.
    Stripes(f64),
    /// Dots; the number is their density.
    Dots(f64),
    /// Blotches; the number is their density.
    Blotches(f64),
}

/// A variety of fruit.
#[derive(Clone, Copy, Debug)]
pub struct Variety {
    /// Name of the variety, and of its folder.
    pub name: &'static str,
    pub(super) shape: Shape,
    pub(super) skin: Skin,
    /// Linear RGB, 0 to 1.
    pub(super) colors: [Vector; 2],
    /// Strength of the highlight.
    pub(super) gloss: f64,
    stem: bool,
}

/// All varieties, sorted by name.
pub const VARIETIES: &[Variety] = &[
    Variety {
        name: "Apple Golden",
        shape: Shape::Round([0.80, 0.74, 0.78]),
        skin: Skin::Dots(9.0),
        colors: [[0.72, 0.62, 0.13], [0.42, 0.40, 0.08]],
        gloss: 0.5,
        stem: true,
    },
    Variety {
        name: "Apple Red",
        shape: Shape::Round([0.82, 0.76, 0.80]),
        skin: Skin::Blush,
        colors: [[0.48, 0.03, 0.04], [0.68, 0.40, 0.10]],
        gloss: 0.7,
        stem: true,
    },
    Variety {
        name: "Apricot",
        shape: Shape::Round([0.72, 0.74, 0.68]),
        skin: Skin::Blush,
        colors: [[0.83, 0.40, 0.07], [0.70, 0.14, 0.05]],
        gloss: 0.15,
        stem: false,
    },
    Variety {
        name: "Banana",
        shape: Shape::Bow { length: 1.9, thickness: 0.24, bend: 1.5 },
        skin: Skin::Blotches(2.2),
        colors: [[0.86, 0.66, 0.06], [0.50, 0.33, 0.05]],
        gloss: 0.25,
        stem: false,
    },
    Variety {
        name: "Cucumber",
        shape: Shape::Bow { length: 1.85, thickness: 0.21, bend: 0.35 },
        skin: Skin::Stripes(9.0),
        colors: [[0.06, 0.22, 0.04], [0.22, 0.42, 0.09]],
        gloss: 0.35,
        stem: false,
    },
    Variety {
        name: "Grape Blue",
        shape: Shape::Berries { rows: 6, radius: 0.23 },
        skin: Skin::Blotches(1.5),
        colors: [[0.03, 0.03, 0.12], [0.12, 0.12, 0.30]],
        gloss: 0.45,
        stem: true,
    },
    Variety {
        name: "Kiwi",
        shape: Shape::Round([0.62, 0.80, 0.60]),
        skin: Skin::Dots(14.0),
        colors: [[0.25, 0.16, 0.07], [0.12, 0.07, 0.03]],
        gloss: 0.05,
        stem: false,
    },
    Variety {
        name: "Lemon",
        shape: Shape::Round([0.62, 0.86, 0.62]),
        skin: Skin::Dots(12.0),
        colors: [[0.90, 0.72, 0.04], [0.80, 0.58, 0.02]],
        gloss: 0.4,
        stem: false,
    },
    Variety {
        name: "Orange",
        shape: Shape::Round([0.82, 0.80, 0.82]),
        skin: Skin::Dots(16.0),
        colors: [[0.88, 0.32, 0.02], [0.72, 0.22, 0.01]],
        gloss: 0.3,
        stem: false,
    },
    Variety {
        name: "Pear",
        shape: Shape::Pear { bottom: 0.60, neck: 0.24, height: 0.92 },
        skin: Skin::Blotches(3.0),
        colors: [[0.52, 0.54, 0.10], [0.38, 0.28, 0.08]],
        gloss: 0.2,
        stem: true,
    },
    Variety {
        name: "Plum",
        shape: Shape::Round([0.60, 0.74, 0.58]),
        skin: Skin::Blotches(1.6),
        colors: [[0.13, 0.02, 0.09], [0.30, 0.10, 0.26]],
        gloss: 0.35,
        stem: true,
    },
    Variety {
        name: "Raspberry",
        shape: Shape::Berries { rows: 8, radius: 0.15 },
        skin: Skin::Blush,
        colors: [[0.60, 0.04, 0.09], [0.40, 0.01, 0.05]],
        gloss: 0.4,
        stem: false,
    },
    Variety {
        name: "Strawberry",
        shape: Shape::Pear { bottom: 0.16, neck: 0.54, height: 0.72 },
        skin: Skin::Dots(15.0),
        colors: [[0.66, 0.03, 0.03], [0.80, 0.55, 0.12]],
        gloss: 0.4,
        stem: true,
    },
    Variety {
        name: "Watermelon",
        shape: Shape::Round([0.84, 0.92, 0.84]),
        skin: Skin::Stripes(14.0),
        colors: [[0.24, 0.42, 0.12], [0.03, 0.13, 0.03]],
        gloss: 0.3,
        stem: false,
    },
];

impl Variety {
    /// The solid parts in the fruit's frame of reference.
    pub(super) fn balls(&self) -> Vec<Ball> {
        let mut balls: Vec<Ball> = match self.shape {
            Shape::Round(radii) => vec![Ball { center: [0.0; 3], radii, stem: false }],
            Shape::Bow { length, thickness, bend } => bow(length, thickness, bend).collect(),
            Shape::Pear { bottom, neck, height } => pear(bottom, neck, height).collect(),
            Shape::Berries { rows, radius } => (0..rows).flat_map(|row| berries(row, rows, radius)).collect(),
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

fn bow(length: f64, thickness: f64, bend: f64) -> impl Iterator<Item = Ball> {
    (0..49).map(move |i| {
        let t = f64::from(i) / 24.0 - 1.0;
        let angle = t * bend / 2.0;
        let circle = length / bend;
        let center = [circle * (cos(angle) - cos(bend / 4.0)), circle * sin(angle), 0.0];
        Ball::sphere(center, thickness * (1.0 - 0.75 * t * t * t * t))
    })
}

fn pear(bottom: f64, neck: f64, height: f64) -> impl Iterator<Item = Ball> {
    (0..28).map(move |i| {
        let t = f64::from(i) / 27.0;
        let ease = if bottom > neck { t * t * (3.0 - 2.0 * t) } else { t };
        Ball::sphere([0.0, -0.30 + t * height - 0.1, 0.0], bottom + (neck - bottom) * ease)
    })
}

/// The spheres of one row.
fn berries(row: u32, rows: u32, radius: f64) -> impl Iterator<Item = Ball> {
    let t = (f64::from(row) + 0.5) / f64::from(rows);
    let ring = 0.62 * libm::sqrt(t) * (1.25 - 0.55 * t);
    let count = (ring * 5.2 / radius / 1.7).max(1.0) as u32;
    (0..count).map(move |i| {
        let around = (f64::from(i) + 0.5 * f64::from(row % 2)) / f64::from(count) * std::f64::consts::TAU;
        Ball::sphere([ring * cos(around), -0.72 + 1.35 * t, ring * sin(around)], radius)
    })
}
