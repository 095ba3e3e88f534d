// What kinds of file WhatsApp knows (Cloud API, "Supported media types"), and how large they may be. A file keeps its
// type only if it is one of these: nothing that a browser would run is ever served from our Storage.

const KB = 1024
const MB = 1024 * KB

export const LARGEST_FILE: Record<string, number> & { document: number } = {
  image: 5 * MB,
  audio: 16 * MB,
  video: 16 * MB,
  document: 100 * MB,
  sticker: 500 * KB,
}

const EXTENSIONS: Record<string, Record<string, string>> = {
  image: { 'image/jpeg': 'jpg', 'image/png': 'png', 'image/webp': 'webp' },
  audio: {
    'audio/aac': 'aac',
    'audio/amr': 'amr',
    'audio/mpeg': 'mp3',
    'audio/mp4': 'm4a',
    'audio/ogg': 'ogg',
  },
  video: { 'video/mp4': 'mp4', 'video/3gpp': '3gp' },
  sticker: { 'image/webp': 'webp' },
  document: {
    'text/plain': 'txt',
    'application/pdf': 'pdf',
    'application/msword': 'doc',
    'application/vnd.ms-excel': 'xls',
    'application/vnd.ms-powerpoint': 'ppt',
    'application/vnd.openxmlformats-officedocument.wordprocessingml.document': 'docx',
    'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet': 'xlsx',
    'application/vnd.openxmlformats-officedocument.presentationml.presentation': 'pptx',
  },
}

/** What a file is stored as. The type without its parameters: `audio/ogg; codecs=opus` is audio/ogg. */
export function fileTypeOf(
  messageType: string,
  mimeType: string | null,
): { mimeType: string; extension: string } {
  const type = mimeType?.split(';', 1)[0]?.trim().toLowerCase() ?? ''
  const known = EXTENSIONS[messageType] ?? {}
  const extension = Object.hasOwn(known, type) ? known[type] : undefined
  return extension === undefined
    ? { mimeType: 'application/octet-stream', extension: 'bin' }
    : { mimeType: type, extension }
}
