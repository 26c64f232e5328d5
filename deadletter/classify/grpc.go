package classify

import "reflect"

// GRPC classifies errors with a gRPC code: those of google.golang.org/grpc, by
// their method GRPCStatus, and those whose own method Code returns the same numbers
// in a type called Code, as those of connectrpc.com/connect do. It imports neither
// package.
//
//	INVALID_ARGUMENT     permanent: wrong whatever the state of the server
//	OUT_OF_RANGE         permanent: the same, for a range
//	NOT_FOUND            permanent, as HTTP's 404
//	ALREADY_EXISTS       permanent: it still exists at the next attempt
//	PERMISSION_DENIED    permanent, as HTTP's 403: this caller may not do this
//	FAILED_PRECONDITION  permanent: gRPC says not to retry before the state is mended
//	UNIMPLEMENTED        permanent, as HTTP's 501
//	DATA_LOSS            permanent: what is lost stays lost
//	UNAUTHENTICATED      retry, as HTTP's 401: credentials are renewed
//	RESOURCE_EXHAUSTED   retry: a quota or a full disk, as HTTP's 429
//	ABORTED              retry: a conflict with something that ran at the same time
//	UNAVAILABLE          retry: gRPC has this code for retries
//	INTERNAL             retry, as HTTP's 500: often a connection that broke in between
//	UNKNOWN              no advice: it is what any plain error becomes
//	CANCELLED            no advice: the code doesn't say who ended the context
//	DEADLINE_EXCEEDED    no advice: the worker knows whether it was the job's deadline
//
// The code is kept in each case.
func GRPC() Classifier {
	return Classifier{Name: "grpc", JudgeEach: judgeGRPC}
}

// grpcCodes are the codes by their numbers, which are part of the protocol.
var grpcCodes = [...]struct {
	name   string
	advice Advice
}{
	1:  {"CANCELLED", NoAdvice},
	2:  {"UNKNOWN", NoAdvice},
	3:  {"INVALID_ARGUMENT", AdvisePermanent},
	4:  {"DEADLINE_EXCEEDED", NoAdvice},
	5:  {"NOT_FOUND", AdvisePermanent},
	6:  {"ALREADY_EXISTS", AdvisePermanent},
	7:  {"PERMISSION_DENIED", AdvisePermanent},
	8:  {"RESOURCE_EXHAUSTED", AdviseRetry},
	9:  {"FAILED_PRECONDITION", AdvisePermanent},
	10: {"ABORTED", AdviseRetry},
	11: {"OUT_OF_RANGE", AdvisePermanent},
	12: {"UNIMPLEMENTED", AdvisePermanent},
	13: {"INTERNAL", AdviseRetry},
	14: {"UNAVAILABLE", AdviseRetry},
	15: {"DATA_LOSS", AdvisePermanent},
	16: {"UNAUTHENTICATED", AdviseRetry},
}

func judgeGRPC(err error) Opinion {
	number, ok := grpcCode(reflect.ValueOf(err))
	if !ok || number == 0 || number >= uint64(len(grpcCodes)) {
		return Opinion{}
	}
	return Opinion{Advice: grpcCodes[number].advice, Code: grpcCodes[number].name}
}

// grpcCode calls GRPCStatus().Code() or Code(), if err has them.
func grpcCode(err reflect.Value) (number uint64, ok bool) {
	if status, ok := callForOne(err.MethodByName("GRPCStatus")); ok {
		return codeNumber(status.MethodByName("Code"))
	}
	return codeNumber(err.MethodByName("Code"))
}

// codeNumber calls a method that returns a code. Many errors have a Code that is
// something else: gRPC's is an unsigned number of a type called Code.
func codeNumber(method reflect.Value) (number uint64, ok bool) {
	if !method.IsValid() || method.Type().NumOut() != 1 {
		return 0, false
	}
	if t := method.Type().Out(0); t.Kind() != reflect.Uint32 || t.Name() != "Code" {
		return 0, false
	}
	code, ok := callForOne(method)
	if !ok {
		return 0, false
	}
	return code.Uint(), true
}

// callForOne calls a method without parameters and with one result.
func callForOne(method reflect.Value) (result reflect.Value, ok bool) {
	if !method.IsValid() || method.Type().NumIn() != 0 || method.Type().NumOut() != 1 {
		return result, false
	}
	return method.Call(nil)[0], true
}
