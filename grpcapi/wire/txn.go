package wire

import "google.golang.org/grpc/mem"

// A TxnResponse is made in two steps, because its header names a revision that is known only when its operations
// have run: AppendTxnOp collects the encoded answers of the operations while they run, then EncodeTxn (or, for a
// nested transaction, AppendTxn) puts the head in front of them.

// TxnOp is the kind of an answer in a TxnResponse: the number of its field in etcdserverpb.ResponseOp.
type TxnOp byte

// The answers that a TxnResponse can hold. As in etcd, the header of a nested answer has only its revision set, and
// that of a nested transaction nothing.
const (
	TxnRange       TxnOp = 1 // from AppendRange
	TxnPut         TxnOp = 2 // from AppendPut
	TxnDeleteRange TxnOp = 3 // from AppendDeleteRange
	TxnNested      TxnOp = 4 // from AppendTxn
)

// AppendTxnOp appends one responses entry of a TxnResponse, which holds the encoded answer body.
func AppendTxnOp(dst []byte, op TxnOp, body []byte) []byte {
	dst = appendPrefix(dst, 3, sizeMessage(len(body)))
	return appendMessage(dst, byte(op), body)
}

// EncodeTxn returns an encoded TxnResponse. ops are the results of AppendTxnOp, which the response keeps.
func EncodeTxn(h Header, succeeded bool, ops []byte) mem.BufferSlice {
	const maxHead = maxHeaderSize + 2
	if len(ops) < shareFrom {
		return oneBuffer(AppendTxn(make([]byte, 0, maxHead+len(ops)), h, succeeded, ops))
	}
	head := AppendTxn(make([]byte, 0, maxHead), h, succeeded, nil)
	return mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(ops)}
}

// AppendTxn appends what EncodeTxn returns.
func AppendTxn(dst []byte, h Header, succeeded bool, ops []byte) []byte {
	return append(appendBool(h.Append(dst), 2, succeeded), ops...)
}
