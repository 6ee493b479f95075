"""A request's body to the bytes of one image, never reading more than the limit."""

from collections.abc import AsyncGenerator

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from record.result import JsonObject
from service.errors import BodyTooLarge, BodyUnusable, MultipartInvalid

# A bare `curl --data-binary` says it sends a form; the bytes decide.
_RAW = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")
# What routes that take many images say of their body: the file parts of one multipart body.
FILES_BODY: JsonObject = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                    }
                },
            }
        }
    },
}


async def read_image(request: Request, max_bytes: int) -> bytes:
    """Return the image of a raw or multipart body.

    Raises `BodyTooLarge`, `BodyUnusable` or `MultipartInvalid`.
    """
    kind = media_type_of(request) or "application/octet-stream"
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    if kind == "multipart/form-data":
        return await _multipart_file(request, max_bytes)
    if not kind.startswith(_RAW):
        raise BodyUnusable(
            f"a body of type {kind!r} is no image; send image/jpeg, image/png, image/bmp or "
            "image/tiff as the body, or multipart/form-data with a part called 'file'"
        )
    return await read_body(request, max_bytes)


def media_type_of(request: Request) -> str:
    """Return the body's type as the request states it, in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return a whole body of any type; raises `BodyTooLarge`."""
    return b"".join(await read_chunks(request, max_bytes))


async def read_chunks(request: Request, max_bytes: int) -> list[bytes]:
    """Return the pieces of a whole body; a large one is put together in a thread."""
    return [chunk async for chunk in _limited(request, max_bytes)]


async def read_images(
    request: Request, *, max_bytes: int, max_images: int
) -> list[tuple[str, str, bytes]]:
    """Return part names, file names and bytes of all file parts of a multipart body, in order.

    Raises `BodyTooLarge` or `MultipartInvalid`.
    """
    form = await _parse(request, max_bytes, max_images)
    try:
        files = [(k, value) for k, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise MultipartInvalid("the multipart body has no file parts")
        return [(part, file.filename or "", await file.read()) for part, file in files]
    finally:
        await form.close()


async def _parse(request: Request, max_bytes: int, max_files: int) -> FormData:
    stream = _limited(request, max_bytes)
    parser = MultiPartParser(request.headers, stream, max_files=max_files, max_fields=16)
    parser.spool_max_size = max_bytes  # the limit is small enough to stay in memory
    try:
        return await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise MultipartInvalid(f"the multipart body cannot be read: {error}") from error


async def _multipart_file(request: Request, max_bytes: int) -> bytes:
    form = await _parse(request, max_bytes, 1)
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise MultipartInvalid("the multipart body has no file part called 'file'")
        return await file.read()
    finally:
        await form.close()


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body is larger than {max_bytes} bytes; send a smaller or more compressed image, or "
        "raise MASKLINE_MAX_BODY_BYTES"
    )
