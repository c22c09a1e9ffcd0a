// The extension module halfbyte._core.
#include "bindings/bind.h"

PYBIND11_MODULE(_core, m) {
  using namespace halfbyte::bindings;
  m.doc() = "halfbyte's native core.";
  m.attr("__version__") = HALFBYTE_VERSION;
  register_errors(m);
  register_formats(m);
  register_files(m);
  register_sampling(m);
  register_model(m);
  register_engine(m);
  register_quantize(m);
  register_cpu(m);
  register_cuda(m);
  register_text(m);
  register_testing(m);
}
