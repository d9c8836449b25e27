//! Compiles `src/jpeg.c` with the headers of libjpeg-turbo.

fn main() {
    println!("cargo::rerun-if-changed=src/jpeg.c");
    println!("cargo::rerun-if-env-changed=DEP_TURBOJPEG_INCLUDE");
    let headers = std::env::var("DEP_TURBOJPEG_INCLUDE").unwrap_or_default();
    cc::Build::new().file("src/jpeg.c").includes(headers.split(',')).compile("pomona_jpeg");
}
