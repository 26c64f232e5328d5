package recordfile

import (
	"context"
	"errors"
	"io"
)

// Count reads a whole file, and returns how many records it has. onProgress, which may be nil, is called
// with the number so far, after each so many. With skip, invalid records count too.
//
// Errors: those of [NewReader] and [Reader.Next]. With skip, a mistake after which the file can be read
// on is none.
func Count(ctx context.Context, in io.Reader, format Format, skip bool, each int64, onProgress func(int64)) (rows int64, err error) {
	f, err := NewReader(ctx, in, format)
	for err == nil {
		if err = ctx.Err(); err == nil {
			_, err = f.Next()
		}
		if mistake := (*Error)(nil); skip && errors.As(err, &mistake) && !mistake.Fatal {
			err = nil
		}
		if err == nil {
			if rows++; rows%each == 0 && onProgress != nil {
				onProgress(rows)
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return rows, err
}
