//! The function `list` alone, for `cargo lambda watch`. Lambda runs the program in `functions/lambda`.

#[tokio::main]
async fn main() -> Result<(), lambda_runtime::Error> {
    pomona_list::serve().await
}
