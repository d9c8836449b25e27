//! Renders a fruit by ray casting: parallel light, a soft highlight, white background.

use libm::{atan2, cos, floor, pow, sin, sqrt};

use super::fruit::{Ball, Skin, Variety, Vector};

/// Side of a picture, pixels.
pub const SIDE: usize = 100;
/// Samples per pixel in each direction.
const SAMPLES: usize = 2;
const LIGHT: Vector = [-0.45, 0.62, 0.64];
const STEM_COLOR: Vector = [0.20, 0.13, 0.05];
/// Half the side of the picture, in units of the fruit's frame of reference.
const MARGIN: f64 = 1.06;

/// Rows of the rotation matrix of a view. The fruit rotates about its axis by `angle`; the axis leans towards the eye and
/// sways a little.
fn rotation(angle: f64) -> [Vector; 3] {
    let lean = 0.42 + 0.22 * sin(angle);
    let sway = 0.30 * sin(angle + 0.9);
    let (st, ct) = (sin(angle), cos(angle));
    let (sl, cl) = (sin(lean), cos(lean));
    let (ss, cs) = (sin(sway), cos(sway));
    let spin = [[ct, 0.0, st], [0.0, 1.0, 0.0], [-st, 0.0, ct]];
    let tilt = [[1.0, 0.0, 0.0], [0.0, cl, -sl], [0.0, sl, cl]];
    let roll = [[cs, -ss, 0.0], [ss, cs, 0.0], [0.0, 0.0, 1.0]];
    product(roll, product(tilt, spin))
}

fn product(a: [Vector; 3], b: [Vector; 3]) -> [Vector; 3] {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// The first intersection of a ray with a ball: its distance along the ray, and the normal.
fn hit(ball: &Ball, origin: Vector, sight: Vector) -> Option<(f64, Vector)> {
    let scaled = |v: Vector| -> Vector { std::array::from_fn(|i| v[i] / ball.radii[i]) };
    let from = scaled(std::array::from_fn(|i| origin[i] - ball.center[i]));
    let along = scaled(sight);
    let (a, b, c) = (dot(along, along), dot(from, along), dot(from, from) - 1.0);
    let root = b * b - a * c;
    if root < 0.0 {
        return None;
    }
    let distance = (-b - sqrt(root)) / a;
    let normal: Vector = std::array::from_fn(|i| (from[i] + distance * along[i]) / ball.radii[i]);
    let length = sqrt(dot(normal, normal));
    Some((distance, normal.map(|v| v / length)))
}

/// A hash of a lattice point, in [0, 1).
fn lattice(x: i64, y: i64, z: i64) -> f64 {
    let mut h = (x as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (y as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ (z as u64).wrapping_mul(0x1656_67b1_9e37_79f9);
    h = (h ^ (h >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((h ^ (h >> 32)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Value noise in [0, 1).
fn noise(p: Vector) -> f64 {
    let cell = p.map(|v| floor(v) as i64);
    let ease: Vector = std::array::from_fn(|i| {
        let t = p[i] - floor(p[i]);
        t * t * (3.0 - 2.0 * t)
    });
    let mut sum = 0.0;
    for corner in 0..8 {
        let bit = |i: usize| (corner >> i) & 1;
        let weight: f64 = (0..3).map(|i| if bit(i) == 1 { ease[i] } else { 1.0 - ease[i] }).product();
        sum += weight * lattice(cell[0] + bit(0), cell[1] + bit(1), cell[2] + bit(2));
    }
    sum
}

/// Smooth step: 0 below `from`, 1 above `to`.
fn step(from: f64, to: f64, x: f64) -> f64 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Share of the second colour at a point of the surface, 0 to 1.
fn skin(skin: Skin, p: Vector) -> f64 {
    let around = atan2(p[0], p[2]);
    match skin {
        Skin::Blush => step(-0.35, 0.75, sin(around) + 0.5 * (noise(p.map(|v| v * 5.0)) - 0.5)),
        Skin::Stripes(count) => {
            let wobble = 1.6 * noise([p[0] * 4.0, p[1] * 6.0, p[2] * 4.0]);
            step(-0.15, 0.35, sin(around * count / 2.0 + wobble))
        }
        Skin::Dots(density) => step(0.70, 0.80, noise(p.map(|v| v * density))),
        Skin::Blotches(size) => {
            let coarse = noise(p.map(|v| v * size * 1.7 + 11.0));
            step(0.45, 0.75, 0.7 * coarse + 0.3 * noise(p.map(|v| v * size * 7.0)))
        }
    }
}

/// Directions in the fruit's frame of reference.
struct Scene {
    /// To the light.
    light: Vector,
    /// From the eye.
    sight: Vector,
    /// To the eye.
    eye: Vector,
}

/// Linear RGB of a point of the surface.
fn color(variety: &Variety, ball: &Ball, point: Vector, normal: Vector, scene: &Scene) -> Vector {
    let base: Vector = if ball.stem {
        STEM_COLOR
    } else {
        let share = skin(variety.skin, point);
        std::array::from_fn(|i| variety.colors[0][i] * (1.0 - share) + variety.colors[1][i] * share)
    };
    let diffuse = dot(normal, scene.light).max(0.0);
    let halfway: Vector = std::array::from_fn(|i| scene.light[i] + scene.eye[i]);
    let length = sqrt(dot(halfway, halfway));
    let shine = variety.gloss * pow((dot(normal, halfway) / length).max(0.0), 28.0);
    base.map(|channel| channel * (0.28 + 0.85 * diffuse) + 0.6 * shine)
}

/// View `view` of `views`, as sRGB `[SIDE, SIDE, 3]`, row-major.
pub(super) fn render(variety: &Variety, view: u32, views: u32) -> Vec<u8> {
    let angle = f64::from(view) / f64::from(views.max(1)) * std::f64::consts::TAU;
    let rotation = rotation(angle);
    // The rows of the matrix are the axes of the picture in the fruit's frame of reference.
    let seen = |v: Vector| -> Vector { std::array::from_fn(|j| (0..3).map(|i| v[i] * rotation[i][j]).sum()) };
    let scene = Scene { light: seen(LIGHT), sight: seen([0.0, 0.0, -1.0]), eye: seen([0.0, 0.0, 1.0]) };
    let balls = variety.balls();
    let mut picture = Vec::with_capacity(SIDE * SIDE * 3);
    let step = 2.0 * MARGIN / (SIDE * SAMPLES) as f64;
    for y in 0..SIDE {
        for x in 0..SIDE {
            let mut sum = [0.0; 3];
            for sample in 0..SAMPLES * SAMPLES {
                let sx = (x * SAMPLES + sample % SAMPLES) as f64 + 0.5;
                let sy = (y * SAMPLES + sample / SAMPLES) as f64 + 0.5;
                let origin = seen([sx * step - MARGIN, MARGIN - sy * step, 4.0]);
                let nearest = balls
                    .iter()
                    .filter_map(|ball| {
                        hit(ball, origin, scene.sight).map(|(distance, normal)| (distance, normal, ball))
                    })
                    .min_by(|a, b| a.0.total_cmp(&b.0));
                let rgb = nearest.map_or([1.0; 3], |(distance, normal, ball)| {
                    let point = std::array::from_fn(|i| origin[i] + distance * scene.sight[i]);
                    color(variety, ball, point, normal, &scene)
                });
                for (sum, value) in sum.iter_mut().zip(rgb) {
                    *sum += value.clamp(0.0, 1.0);
                }
            }
            picture.extend(sum.map(|v| {
                let linear = v / (SAMPLES * SAMPLES) as f64;
                (pow(linear, 1.0 / 2.2) * 255.0 + 0.5) as u8
            }));
        }
    }
    picture
}
