//! What is done to an image before it goes into an ONNX model: resizing, cropping, scaling and normalising.

use pomona_kernels::Samples;
use serde::{Deserialize, Serialize};

use super::{extractor::MAX_SIDE, invalid};
use crate::{
    Result,
    image::{Filter, Limits, Pixels, Reason, Reject, resize_with},
};

/// What is done to an image. The default is that of Keras' MobileNet: the size of the model's input whatever the shape of the
/// image, bicubic, and `x / 127.5 - 1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// The size before the crop.
    pub resize: Resize,
    /// How pixels are interpolated.
    pub filter: Filter,
    /// Height and width of the part in the middle that is taken. None for all.
    pub crop: Option<[usize; 2]>,
    /// Samples from 0 to 255 are multiplied with this.
    pub scale: f64,
    /// Then, for each channel, its mean is subtracted,
    pub mean: [f64; 3],
    /// and the result is divided by its standard deviation.
    pub std: [f64; 3],
    /// Whether the channels are blue, green, red.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bgr: bool,
}

/// Whether `f64`s are numbers is checked when they are read, so that equality is one.
impl Eq for Preprocessing {}

/// A size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// That of the model's input.
    Model,
    /// Height and width.
    Exact([usize; 2]),
    /// The shorter side; the other one keeps the shape.
    ShortestEdge(usize),
    /// As it is.
    None,
}

impl Default for Preprocessing {
    fn default() -> Self {
        let one = [1.0; 3];
        Preprocessing {
            resize: Resize::Model,
            filter: Filter::Bicubic,
            crop: None,
            scale: 1.0 / 127.5,
            mean: one,
            std: one,
            bgr: false,
        }
    }
}

impl Preprocessing {
    /// The preprocessing of this name. Fails with `Model.Invalid`, which lists the names.
    pub fn of_name(name: &str) -> Result<Self> {
        let of = |resize, filter, crop, mean, std| Preprocessing {
            resize,
            filter,
            crop,
            scale: 1.0 / 255.0,
            mean,
            std,
            bgr: false,
        };
        let half = [0.5; 3];
        let imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let clip = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]);
        Ok(match name {
            "keras-mobilenet" => Preprocessing::default(),
            "imagenet" => of(Resize::ShortestEdge(256), Filter::Bilinear, Some([224; 2]), imagenet.0, imagenet.1),
            "clip" => of(Resize::ShortestEdge(224), Filter::Bicubic, Some([224; 2]), clip.0, clip.1),
            "siglip" => of(Resize::Model, Filter::Bicubic, None, half, half),
            "half" => of(Resize::Model, Filter::Bilinear, None, half, half),
            _ => {
                let names = "keras-mobilenet, imagenet, clip, siglip, half";
                return Err(invalid("there is no such preprocessing").context("name", name).context("possible", names));
            }
        })
    }

    /// What the kernels make of the samples of pixels. The numbers of Keras' MobileNet are those of a division, as before there
    /// were others.
    pub(super) fn samples(&self) -> Samples {
        let Preprocessing { scale, mean, std, .. } = Preprocessing::default();
        if (self.scale, self.mean, self.std) == (scale, mean, std) {
            return Samples { bgr: self.bgr, ..Samples::default() };
        }
        Samples { table: self.table(), bgr: self.bgr }
    }

    /// Height and width that it makes, if it makes one size.
    pub(super) fn size(&self) -> Option<[usize; 2]> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some(crop),
            (None, Resize::Exact(size)) => Some(size),
            _ => None,
        }
    }

    /// The pixels of an image for a model with an input of this size. Fails with `TooLarge` if the image is so long that its
    /// shorter side cannot be scaled.
    pub(super) fn pixels(&self, image: Pixels, height: usize, width: usize) -> std::result::Result<Pixels, Reject> {
        let (to_height, to_width) = match self.resize {
            Resize::Model => (height, width),
            Resize::Exact([height, width]) => (height, width),
            Resize::ShortestEdge(edge) => shortest(&image, edge),
            Resize::None => (image.height, image.width),
        };
        if to_height as u64 * to_width as u64 > Limits::default().pixels {
            let detail = format!("prepared for the model, it has {to_width} x {to_height} pixels");
            return Err(Reject::new(Reason::TooLarge, detail));
        }
        let resized = resize_with(image, to_width, to_height, self.filter);
        // What a model takes is always of its size, whatever its configuration says.
        let [crop_height, crop_width] = self.crop.unwrap_or([resized.height, resized.width]);
        let cropped = middle(resized, crop_height, crop_width);
        Ok(resize_with(cropped, width, height, self.filter))
    }

    /// What each sample of each channel becomes, in the order of the channels of a pixel.
    pub(super) fn table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            std::array::from_fn(|sample| ((sample as f64 * self.scale) as f32 - mean) / std)
        })
    }

    /// Fails with `Model.Invalid` if a number is no number, or a size is too large.
    pub fn checked(self) -> Result<Self> {
        let numbers = self.mean.iter().chain(&self.std).chain([&self.scale]);
        if !numbers.into_iter().all(|x| x.is_finite() && x.abs() < 1e6) || self.std.iter().any(|x| x.abs() < 1e-9) {
            return Err(invalid("a number of its preprocessing is not usable"));
        }
        let sides = match self.resize {
            Resize::Exact(sides) => sides,
            Resize::ShortestEdge(edge) => [edge; 2],
            Resize::Model | Resize::None => [1; 2],
        };
        let all = sides.iter().chain(self.crop.iter().flatten());
        if all.into_iter().any(|side| !(1..=2 * MAX_SIDE).contains(side)) {
            return Err(invalid("a size of its preprocessing is not usable"));
        }
        Ok(self)
    }
}

/// Height and width of an image whose shorter side becomes `edge`.
fn shortest(image: &Pixels, edge: usize) -> (usize, usize) {
    let other = |long: usize, short: usize| ((edge * long) / short.max(1)).max(1);
    if image.height <= image.width {
        (edge, other(image.width, image.height))
    } else {
        (other(image.height, image.width), edge)
    }
}

/// The part in the middle of an image; what lies outside of it is black, as in Transformers.
fn middle(image: Pixels, height: usize, width: usize) -> Pixels {
    if (image.height, image.width) == (height, width) {
        return image;
    }
    let mut data = vec![0; height * width * 3];
    let (top, left) = (start(image.height, height), start(image.width, width));
    for (y, row) in data.chunks_exact_mut(width * 3).enumerate() {
        let Some(from) = (y as isize + top).try_into().ok().filter(|y: &usize| *y < image.height) else { continue };
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let Some(at) = (x as isize + left).try_into().ok().filter(|x: &usize| *x < image.width) else { continue };
            let at: usize = (from * image.width + at) * 3;
            pixel.copy_from_slice(&image.data[at..at + 3]);
        }
    }
    Pixels { width, height, data }
}

/// Where the middle starts: negative if it is larger than the image.
fn start(all: usize, part: usize) -> isize {
    let (all, part) = (all as isize, part as isize);
    if all >= part { (all - part) / 2 } else { -((part - all + 1) / 2) }
}

/// The numbers that a model gets of pixels of its size, `[height, width, 3]` with the channels last, otherwise
/// `[3, height, width]`. `table` has what each sample of each channel becomes; `bgr` says that blue is the first channel.
pub(super) fn numbers(pixels: &Pixels, table: &[[f32; 256]; 3], bgr: bool, channels_last: bool) -> Vec<f32> {
    let number = |channel: usize, pixel: &[u8]| {
        let sample = pixel[if bgr { 2 - channel } else { channel }];
        table[channel][usize::from(sample)]
    };
    let mut data = vec![0f32; pixels.data.len()];
    if channels_last {
        for (to, pixel) in data.chunks_exact_mut(3).zip(pixels.data.chunks_exact(3)) {
            for (channel, to) in to.iter_mut().enumerate() {
                *to = number(channel, pixel);
            }
        }
        return data;
    }
    for (channel, plane) in data.chunks_exact_mut(pixels.width * pixels.height).enumerate() {
        for (to, pixel) in plane.iter_mut().zip(pixels.data.chunks_exact(3)) {
            *to = number(channel, pixel);
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_that_of_transformers() {
        let image = Pixels { width: 4, height: 1, data: (0..12).collect() };
        assert_eq!(middle(image.clone(), 1, 2).data, (3..9).collect::<Vec<u8>>());
        // Larger than the image: black around it.
        let larger = middle(image, 1, 6);
        assert_eq!(larger.data, [[0; 3], [0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [0; 3]].concat());
        let tall = Pixels { width: 10, height: 20, data: vec![7; 600] };
        assert_eq!(shortest(&tall, 5), (10, 5));
        let long = Pixels { width: 40_000, height: 1, data: vec![7; 120_000] };
        let refused = Preprocessing::of_name("imagenet").unwrap().pixels(long, 8, 8).unwrap_err();
        assert_eq!(refused.reason, Reason::TooLarge);
    }
}
