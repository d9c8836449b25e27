//! Small pictures in terminals that can show them: with the protocols of iTerm2 and kitty, and as sixels.

use std::{
    fmt::Write as _,
    io::{Cursor, IsTerminal as _},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{StreamExt, stream};
use icy_sixel::{DiffusionMethod, MethodForLargest, MethodForRep, PixelFormat, Quality, sixel_string};
use image::{ImageFormat, Rgb, RgbImage, imageops};

use crate::{
    Result, dataset::blocking::run_blocking, image::preview, stages::Stores, store::Store, versions::find::Hit,
};

use super::args::PicturesArg;

/// Side of a picture in pixels, and the cells of a terminal that it takes.
const SIDE: usize = 96;
const COLUMNS: usize = 8;
const LINES: usize = 4;
/// Width of a terminal that does not tell its own.
const WIDTH: usize = 80;
/// Images that are read at the same time.
const READS: usize = 4;
/// Longest piece of a picture in kitty's protocol.
const PIECE: usize = 4_096;

/// How a terminal takes pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Iterm2,
    Kitty,
    Sixel,
}

impl Protocol {
    /// What to use for standard output; None for no pictures.
    pub(crate) fn wanted(argument: PicturesArg) -> Option<Protocol> {
        match argument {
            PicturesArg::Auto if std::io::stdout().is_terminal() => Protocol::known(|name| std::env::var(name).ok()),
            PicturesArg::Auto | PicturesArg::Never => None,
            PicturesArg::Iterm2 => Some(Protocol::Iterm2),
            PicturesArg::Kitty => Some(Protocol::Kitty),
            PicturesArg::Sixel => Some(Protocol::Sixel),
        }
    }

    /// The protocol of a terminal that is known by its variables. The terminal is not asked: one that does not answer would keep
    /// the program waiting.
    fn known(variable: impl Fn(&str) -> Option<String>) -> Option<Protocol> {
        let [term, program, host] =
            ["TERM", "TERM_PROGRAM", "LC_TERMINAL"].map(|name| variable(name).unwrap_or_default());
        // tmux and screen do not pass pictures on.
        if variable("TMUX").is_some() || variable("STY").is_some() {
            return None;
        }
        let is_kitty =
            variable("KITTY_WINDOW_ID").is_some() || ["xterm-kitty", "xterm-ghostty"].contains(&term.as_str());
        if is_kitty || program == "ghostty" {
            return Some(Protocol::Kitty);
        }
        if ["iTerm.app", "WezTerm", "mintty"].contains(&program.as_str()) || host == "iTerm2" {
            return Some(Protocol::Iterm2);
        }
        let has_sixels = ["foot", "mlterm", "yaft"].iter().any(|name| term.starts_with(name)) || term.contains("sixel");
        has_sixels.then_some(Protocol::Sixel)
    }

    /// The escape sequences that show a picture, `LINES` lines high.
    fn show(self, picture: &RgbImage) -> Option<String> {
        let columns = picture.width() as usize / SIDE * COLUMNS;
        if self == Protocol::Sixel {
            let (width, height) = (picture.width() as i32, picture.height() as i32);
            let sixels = sixel_string(
                picture.as_raw(),
                width,
                height,
                PixelFormat::RGB888,
                DiffusionMethod::FS,
                MethodForLargest::Auto,
                MethodForRep::Auto,
                Quality::HIGH,
            );
            return Some(sixels.ok()? + "\n");
        }
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, ImageFormat::Png).ok()?;
        let (bytes, text) = (file.get_ref().len(), STANDARD.encode(file.get_ref()));
        if self == Protocol::Iterm2 {
            let what = format!("inline=1;size={bytes};width={columns};height={LINES};preserveAspectRatio=1");
            return Some(format!("\u{1b}]1337;File={what}:{text}\u{7}\n"));
        }
        let mut shown = String::new();
        let mut head = format!("a=T,f=100,c={columns},r={LINES},q=2,");
        // Base64 has only ASCII, so that every position is a boundary.
        let pieces = text.len().div_ceil(PIECE);
        for piece in 0..pieces {
            let content = &text[piece * PIECE..text.len().min((piece + 1) * PIECE)];
            let more = u8::from(piece + 1 < pieces);
            let _ = write!(shown, "\u{1b}_G{head}m={more};{content}\u{1b}\\");
            head.clear();
        }
        Some(shown + "\n")
    }
}

/// The pictures of some answers side by side, with the distance below each; in the order of the answers. An image that cannot be
/// read, because it was deleted from the input for example, is an empty square. Without any picture, the text is empty.
pub(crate) async fn strips(protocol: Protocol, input: &str, output: &Arc<dyn Store>, hits: &[Hit]) -> String {
    let Ok(pictures) = previews(input, output, hits).await else { return String::new() };
    if pictures.iter().all(Option::is_none) {
        return String::new();
    }
    let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0));
    let of_strip = (width / COLUMNS).max(1);
    let mut text = String::new();
    for (pictures, hits) in pictures.chunks(of_strip).zip(hits.chunks(of_strip)) {
        let Some(shown) = protocol.show(&strip(pictures)) else { continue };
        text.push_str(&shown);
        let distances: String = hits.iter().map(|hit| format!("{:<COLUMNS$.4}", hit.distance)).collect();
        text.push_str(distances.trim_end());
        text.push_str("\n\n");
    }
    text
}

/// Previews of the images of some answers.
async fn previews(input: &str, output: &Arc<dyn Store>, hits: &[Hit]) -> Result<Vec<Option<RgbImage>>> {
    let input = Stores::recorded(input, output).await?.input;
    let reads: Vec<_> = hits
        .iter()
        .map(|hit| {
            let input = Arc::clone(&input);
            async move {
                let file = input.get(&hit.path).await.ok()?;
                run_blocking(move || Ok(preview(&file, SIDE))).await.ok().flatten()
            }
        })
        .collect();
    Ok(stream::iter(reads).buffered(READS).collect().await)
}

/// Pictures side by side.
fn strip(pictures: &[Option<RgbImage>]) -> RgbImage {
    let mut strip = RgbImage::from_pixel((pictures.len() * SIDE) as u32, SIDE as u32, Rgb([255; 3]));
    for (number, picture) in pictures.iter().enumerate() {
        if let Some(picture) = picture {
            imageops::replace(&mut strip, picture, (number * SIDE) as i64, 0);
        }
    }
    strip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_known_by_their_variables() {
        let known = |variables: &[(&str, &str)]| {
            Protocol::known(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(known(&[("TERM", "xterm-256color")]), None);
        assert_eq!(known(&[]), None);
        assert_eq!(known(&[("TERM", "xterm-kitty")]), Some(Protocol::Kitty));
        assert_eq!(known(&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")]), Some(Protocol::Iterm2));
        assert_eq!(known(&[("TERM", "foot")]), Some(Protocol::Sixel));
        assert_eq!(known(&[("TERM", "xterm-kitty"), ("TMUX", "/tmp/tmux-0/default,1,0")]), None);
    }

    #[test]
    fn the_pictures_of_each_protocol_are_those_of_the_strip() {
        let picture = strip(&[Some(RgbImage::from_pixel(96, 96, Rgb([200, 20, 20]))), None]);
        assert_eq!(picture.dimensions(), (192, 96));
        let shown = Protocol::Iterm2.show(&picture).unwrap();
        let (head, file) = shown.strip_suffix("\u{7}\n").unwrap().split_once(':').unwrap();
        assert!(head.starts_with("\u{1b}]1337;File=inline=1;") && head.contains("width=16;height=4"), "{head}");
        let decoded = image::load_from_memory(&STANDARD.decode(file).unwrap()).unwrap().to_rgb8();
        assert_eq!(decoded, picture);
        // Larger than one piece, and all pieces but the last are announced as such.
        let noise = RgbImage::from_fn(192, 96, |x, y| Rgb([(x * y) as u8, (x * 7 + y) as u8, (y * 31) as u8]));
        let shown = Protocol::Kitty.show(&noise).unwrap();
        let pieces: Vec<&str> = shown.trim_end().split_terminator("\u{1b}\\").collect();
        assert!(pieces.len() > 1 && pieces[0].starts_with("\u{1b}_Ga=T,f=100,c=16,r=4,q=2,m=1;"));
        let file: String = pieces.iter().map(|piece| piece.split_once(';').unwrap().1).collect();
        assert_eq!(image::load_from_memory(&STANDARD.decode(file).unwrap()).unwrap().to_rgb8(), noise);
        assert!(pieces[1..].iter().rev().skip(1).all(|piece| piece.starts_with("\u{1b}_Gm=1;")));
        assert!(pieces.last().unwrap().starts_with("\u{1b}_Gm=0;"));
        let sixels = Protocol::Sixel.show(&picture).unwrap();
        assert!(sixels.starts_with("\u{1b}P") && sixels.contains("192;96") && sixels.ends_with("\u{1b}\\\n"));
    }
}
