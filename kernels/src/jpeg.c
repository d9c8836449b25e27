/* Decodes a JPEG in memory by libjpeg-turbo, for jpeg.rs.
 *
 * The TurboJPEG API cannot tell a file that lacks data from one with other damage: it returns the first warning only. So this
 * file uses the older API, in C, because an error of libjpeg must leave by longjmp.
 *
 * The data source is Pillow's: at the end of the file, libjpeg is told to wait for more data instead of being given an end
 * marker. A file is truncated if libjpeg waits before the last row is decoded. */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

enum { DONE, TRUNCATED, FAILED };

/* Rows that are decoded in one call: as many as the highest MCU has, so that none is copied. */
#define ROWS 32

struct pomona_jpeg {
  struct jpeg_decompress_struct info;
  struct jpeg_source_mgr source;
  struct jpeg_progress_mgr progress;
  struct jpeg_error_mgr errors;
  jmp_buf failed;
  int most_scans;
  char message[JMSG_LENGTH_MAX];
};

static struct pomona_jpeg *decoder_of(j_common_ptr info) { return info->client_data; }

static void fail(j_common_ptr info) {
  struct pomona_jpeg *decoder = decoder_of(info);
  (*info->err->format_message)(info, decoder->message);
  longjmp(decoder->failed, 1);
}

/* Damage across which libjpeg decodes is ignored, as in Pillow. */
static void ignore_message(j_common_ptr info, int level) {
  (void)info;
  (void)level;
}

static void ignore(j_decompress_ptr info) { (void)info; }

static boolean wait_for_data(j_decompress_ptr info) {
  (void)info;
  return FALSE;
}

static void skip(j_decompress_ptr info, long bytes) {
  struct jpeg_source_mgr *source = info->src;
  if (bytes > 0) {
    size_t skipped = (size_t)bytes < source->bytes_in_buffer ? (size_t)bytes : source->bytes_in_buffer;
    source->next_input_byte += skipped;
    source->bytes_in_buffer -= skipped;
  }
}

static void check_scans(j_common_ptr info) {
  struct pomona_jpeg *decoder = decoder_of(info);
  if (decoder->info.input_scan_number > decoder->most_scans) {
    snprintf(decoder->message, sizeof decoder->message, "Progressive JPEG image has more than %d scans", decoder->most_scans);
    longjmp(decoder->failed, 1);
  }
}

void pomona_jpeg_free(struct pomona_jpeg *decoder) {
  jpeg_destroy_decompress(&decoder->info);
  free(decoder);
}

static int start(struct pomona_jpeg *decoder) {
  if (setjmp(decoder->failed)) return FAILED;
  jpeg_create_decompress(&decoder->info);
  return DONE;
}

/* Returns a decoder without a file, or null if there is no memory. */
struct pomona_jpeg *pomona_jpeg_new(int most_scans, long most_memory) {
  struct pomona_jpeg *decoder = calloc(1, sizeof *decoder);
  if (decoder == NULL) return NULL;
  decoder->info.err = jpeg_std_error(&decoder->errors);
  decoder->errors.error_exit = fail;
  decoder->errors.emit_message = ignore_message;
  decoder->info.client_data = decoder;
  if (start(decoder) != DONE) {
    pomona_jpeg_free(decoder);
    return NULL;
  }
  decoder->info.mem->max_memory_to_use = most_memory;
  decoder->most_scans = most_scans;
  decoder->progress.progress_monitor = check_scans;
  decoder->info.progress = &decoder->progress;
  decoder->source.init_source = ignore;
  decoder->source.fill_input_buffer = wait_for_data;
  decoder->source.skip_input_data = skip;
  decoder->source.resync_to_restart = jpeg_resync_to_restart;
  decoder->source.term_source = ignore;
  decoder->info.src = &decoder->source;
  return decoder;
}

/* The text of the last failure. */
const char *pomona_jpeg_message(const struct pomona_jpeg *decoder) { return decoder->message; }

struct pomona_jpeg_header {
  uint32_t width;
  uint32_t height;
  /* 3 for RGB, 4 for CMYK, 0 for other colors, which cannot be decoded. */
  uint32_t channels;
  uint32_t bits;
  uint32_t is_lossless;
};

/* Reads the header. The file must outlive all calls with this decoder. */
int pomona_jpeg_read_header(struct pomona_jpeg *decoder, const uint8_t *file, size_t length,
                            struct pomona_jpeg_header *header) {
  struct jpeg_decompress_struct *info = &decoder->info;
  int found;
  decoder->source.next_input_byte = file;
  decoder->source.bytes_in_buffer = length;
  if (setjmp(decoder->failed)) return FAILED;
  /* Tables alone may precede the image. */
  do found = jpeg_read_header(info, FALSE);
  while (found == JPEG_HEADER_TABLES_ONLY);
  if (found == JPEG_SUSPENDED) return TRUNCATED;
  header->width = info->image_width;
  header->height = info->image_height;
  header->bits = info->data_precision;
  /* Before the output is scaled, the size of a block is 8 x 8 samples, or 1 in a lossless file. */
  header->is_lossless = info->min_DCT_scaled_size == 1;
  switch (info->jpeg_color_space) {
  case JCS_GRAYSCALE:
  case JCS_RGB:
  case JCS_YCbCr:
    header->channels = 3;
    break;
  case JCS_CMYK:
  case JCS_YCCK:
    header->channels = 4;
    break;
  default:
    header->channels = 0;
  }
  return DONE;
}

/* Decodes the image at 1/`reduction` of its size, after its header: `height` rows of `row` bytes. */
int pomona_jpeg_decode(struct pomona_jpeg *decoder, uint32_t reduction, uint8_t *samples, size_t row, size_t height) {
  struct jpeg_decompress_struct *info = &decoder->info;
  if (setjmp(decoder->failed)) return FAILED;
  info->scale_num = 1;
  info->scale_denom = reduction;
  info->dct_method = JDCT_ISLOW;
  info->do_fancy_upsampling = TRUE;
  info->out_color_space = info->num_components == 4 ? JCS_CMYK : JCS_RGB;
  /* Reads all scans of a file with several. */
  if (!jpeg_start_decompress(info)) return TRUNCATED;
  if ((size_t)info->output_width * info->output_components != row || info->output_height != height) {
    snprintf(decoder->message, sizeof decoder->message, "the size of the output is not that of the header");
    return FAILED;
  }
  while (info->output_scanline < info->output_height) {
    JSAMPROW rows[ROWS];
    JDIMENSION left = info->output_height - info->output_scanline;
    JDIMENSION count = left < ROWS ? left : ROWS;
    for (JDIMENSION i = 0; i < count; i++) rows[i] = samples + (info->output_scanline + i) * row;
    if (jpeg_read_scanlines(info, rows, count) == 0) return TRUNCATED;
  }
  /* The pixels are complete, whether or not the end marker follows; a failure behind them is one, as in Pillow. */
  jpeg_finish_decompress(info);
  return DONE;
}
